"""What step 5 measures of a reconstruction, and how it is read: the guide's marks and its decision tree.

Every image is reconstructed from the posterior's mean and from a sample; the original reports the latter. Set metrics
are computed from vectors that a row carries as numbers: the features of image and reconstruction, and the moments of
its latent.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from lib.core.records import Batch, Metric, Parts, Row, Stage
from lib.network import scoring
from lib.recipes.vavae_microdoppler import inception, metrics
from lib.recipes.vavae_microdoppler.autoencoder.decision import tree
from lib.recipes.vavae_microdoppler.autoencoder.losses import Posterior
from lib.recipes.vavae_microdoppler.autoencoder.model import decode, moments_of
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.features import gathered, pooled, spread

# Better when they are large, and when they are small: title, one line of meaning, shown first.
HIGHER = {
    "psnr": ("PSNR", "Peak signal over noise of the reconstruction; 6 dB more halve the error.", True),
    "psnr_sampled": ("PSNR of a sample", "PSNR of what a sample of the latent becomes.", False),
    "foreground_psnr": ("PSNR of the foreground", "PSNR where the spectrogram has signal.", True),
    "ssim": ("SSIM", "Similarity of local structure, 1 is the same picture.", True),
    "ssim_sampled": ("SSIM of a sample", "SSIM of what a sample of the latent becomes.", False),
    "alignment_cosine": ("Alignment with DINOv2", "Cosine between projected latents and vision features.", True),
    "user_silhouette": ("Silhouette of users", "How well users separate in the latents, -1 to 1.", False),
    "user_ratio": ("Separation of users", "Distance between users over the spread within one.", False),
    "user_probe": ("Users told by a probe", "How often a linear probe of the latents names the user.", True),
}
LOWER = {
    "mse": ("Squared error", "Mean squared error on [0, 1].", False),
    "mse_sampled": ("Squared error of a sample", "The same of what a sample of the latent becomes.", False),
    "lpips": ("LPIPS", "Perceptual distance of image and reconstruction.", True),
    "lpips_sampled": ("LPIPS of a sample", "LPIPS of what a sample of the latent becomes.", False),
    "frechet_vgg32": ("Fréchet distance", "Distance of the set of reconstructions to the images, pooled VGG.", True),
    inception.MEASURE: ("Fréchet distance, Inception", "The FID: the same in Inception's space.", False),
}
SCALARS = (
    "mse", "psnr", "ssim", "lpips", "foreground_psnr", "mse_sampled", "psnr_sampled", "ssim_sampled", "lpips_sampled",
    "alignment_cosine", "kl",
)  # fmt: skip

# The guide's marks: metric, bound, whether it must be above.
MARKS = (("psnr", 25.0, True), ("psnr", 30.0, True), ("lpips", 0.1, False), ("mse", 0.01, False))


def measures(config: Config, stage: Stage) -> dict[str, Metric]:
    """PSNR first; what settings or a missing network leave out is not in the scores."""
    return {
        name: Metric("dB" if "psnr" in name else "", name in LOWER, title=title, meaning=meaning, front=front)
        for name, (title, meaning, front) in (HIGHER | LOWER).items()
    }


def score_batch(config: Config, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
    """Rows of a batch; the trivial predictor answers with the image's mean colour. The adapted networks run in the
    precision of the training, all that measures them in fp32.
    """
    image = batch["image"].float()
    shown: dict[str, torch.Tensor] = {}
    made = None if parts is None else reconstructed(parts, image, batch)
    with torch.autocast(image.device.type, enabled=False):
        if parts is None or made is None:
            numbers = compared(image, image.mean((2, 3), keepdim=True).expand_as(image), "")
        else:
            numbers, shown = measured(parts, made, image, batch), {"recon": made.recon}
    numbers["label"] = batch["label"]
    texts, rows = inception.texts(config.eval.inception, image, shown.get("recon")), []
    for i, (sample_id, group) in enumerate(zip(batch["sample_id"], batch["group"], strict=True)):
        arrays = {name: value[i].float().cpu().numpy() for name, value in ({"image": image} | shown).items()}
        said = texts[i] | {"user": batch["user"][i]}
        rows.append(Row(sample_id, group, {name: float(value[i]) for name, value in numbers.items()}, arrays, said))
    return rows


class Made(NamedTuple):
    """What the adapted networks make of images, in fp32."""

    posterior: Posterior
    recon: torch.Tensor  # (n, 3, h, w), of the posterior's mean
    recon_sampled: torch.Tensor
    projected: torch.Tensor | None  # (n, width, grid, grid), where there is a projection


def reconstructed(parts: Parts, image: torch.Tensor, batch: Batch) -> Made:
    """Of the images (n, 3, h, w) of a batch, in [-1, 1]."""
    autoencoder = parts.modules["autoencoder"]
    posterior = Posterior.of(moments_of(autoencoder, image).float())
    sample = posterior.sample(scoring.noise(batch, *posterior.mean.shape[1:]).to(posterior.mean))
    recon, recon_sampled = decode(autoencoder, posterior.mean).float(), decode(autoencoder, sample).float()
    projected = parts.modules["projection"](posterior.mean).float() if "projection" in parts.modules else None
    return Made(posterior, recon, recon_sampled, projected)


def measured(parts: Parts, made: Made, image: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """{number: (n,)}. batch: "feature" (n, width, grid, grid) of the vision network, where there is a projection."""
    perceptual, posterior = parts.modules.get("perceptual"), made.posterior
    numbers = compared(image, made.recon, "") | compared(image, made.recon_sampled, "_sampled")
    numbers["kl"] = posterior.kl()
    if perceptual is not None:
        numbers["lpips"] = perceptual(image, made.recon).flatten()
        numbers["lpips_sampled"] = perceptual(image, made.recon_sampled).flatten()
        for name, picture in (("real", image), ("fake", made.recon)):
            numbers |= spread(name, pooled(perceptual, picture))
    if made.projected is not None:
        cosine = torch.cosine_similarity(made.projected, batch["feature"].float(), dim=1)
        numbers["alignment_cosine"] = cosine.mean((1, 2))
    numbers |= spread("latent", posterior.mean.mean((2, 3)))
    return numbers | spread("square", (posterior.mean**2 + posterior.logvar.exp()).mean((2, 3)))


def compared(image: torch.Tensor, recon: torch.Tensor, ending: str) -> dict[str, torch.Tensor]:
    """{metric + ending: (n,)} of images (n, 3, h, w): on [0, 1], clamped, peak 1."""
    one, other = metrics.unit_range(image), metrics.unit_range(recon)
    error = metrics.mse(one, other)
    found = {"mse": error, "psnr": metrics.psnr(error, 1.0), "ssim": metrics.ssim(one, other, 1.0)}
    if not ending:
        found["foreground_psnr"] = metrics.foreground_psnr(image, recon)
    return {name + ending: value for name, value in found.items()}


def summarise(config: Config, stage: Stage, rows: list[Row]) -> dict[str, float]:
    """Means, and the metrics of the whole set."""
    found = {name: float(np.mean([row.numbers[name] for row in rows])) for name in SCALARS if name in rows[0].numbers}
    real, fake, latent = (gathered(rows, name) for name in ("real", "fake", "latent"))
    if real.size:
        found["frechet_vgg32"] = metrics.frechet(real, fake)
    found |= inception.distance(rows)
    if latent.size:
        labels = np.array([row.numbers["label"] for row in rows])
        found["user_silhouette"] = metrics.silhouette(latent, labels)
        found["user_ratio"] = metrics.separation_ratio(latent, labels)
        found["user_probe"] = probe(rows)
    return found


def probe(rows: list[Row]) -> float:
    """How often a linear probe of pooled latents tells the user, trained on every other held-out recording, read on the
    rest; NaN where the recordings are too few.
    """
    vectors, labels = gathered(rows, "latent"), np.array([int(row.numbers["label"]) for row in rows])
    order: dict[str, dict[str, int]] = {}  # user -> recording -> its number
    for row in rows:
        seen = order.setdefault(row.group.split("/")[0], {})
        seen.setdefault(row.group, len(seen))
    even = np.array([order[row.group.split("/")[0]][row.group] % 2 == 0 for row in rows])
    if even.all() or len(np.unique(labels[even])) < 2:
        return float("nan")
    return metrics.linear_probe(vectors[even], labels[even], vectors[~even], labels[~even])


def describe(config: Config, stage: Stage, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """The marks of the guide, the base's place in its decision tree, and the main comparison."""
    lines, found = [], scores["metrics"]
    for name, bound, above in MARKS:
        if name in found:
            value = found[name]["adapted"]
            passed = "passed" if (value > bound if above else value < bound) else "not passed"
            lines.append(f"{name} {value:.4g} ({'>' if above else '<'} {bound:g}: {passed})")
    main = found["psnr"]
    if scores["comparison"] == "base":
        lines += tree(main["base"], found.get("lpips", {}).get("base")).splitlines()
    interval = "" if main["low"] is None else f" [{main['low']:.2f}, {main['high']:.2f}]"
    lines.append(
        f"PSNR: {scores['comparison'].replace('_', ' ')} {main['base']:.2f} dB, adapted {main['adapted']:.2f} dB, "
        f"difference {main['difference']:+.2f} dB{interval}: {main['verdict'] or 'no verdict'}"
    )
    return "\n".join(f"  {line}" for line in lines)
