"""What step 5 measures of generated spectrograms: one is drawn for every held-out image, with its user.

Fréchet and kernel distance are stated in the pooled VGG/LPIPS space of the autoencoder's stages (32 numbers), not in
Inception's: they compare with themselves only. A generated image has passed the decoder, a real one has not, and where
the autoencoder is soft that difference drowns all others (in the demo 2.8 of a distance of 5.4; noise, decoded, scores
1.0). So the set is compared with the reconstructions of the held-out images, which is what the network answers for;
`frechet_vgg32` alone is against the images themselves. The trivial column is a copyist, who hands out reconstructed
training images: no generator beats it, and it is what memorisation looks like.
"""

from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from lib.core.records import Batch, Metric, Parts, Row, Stage
from lib.network import scoring
from lib.recipes.vavae_microdoppler import inception, metrics
from lib.recipes.vavae_microdoppler.autoencoder.losses import Posterior
from lib.recipes.vavae_microdoppler.autoencoder.model import decode, moments_of
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import generate, kinematics, utility
from lib.recipes.vavae_microdoppler.features import gathered, pooled, spread

FRECHET, ACCURACY = 50.0, 0.8  # the guide's marks: below, above
RESAMPLES = 2000
COLLAPSE, COPIES = 0.5, 0.5  # ratios below which a user always looks the same, and samples are training images
# Better when they are small, and when they are large: title, one line of meaning, shown first.
LOWER = {
    "frechet_decoded": ("Fréchet distance", "Distance of generated images to reconstructed held-out ones.", True),
    "kid_decoded": ("Kernel distance", "The same by a kernel, steadier for few images.", True),
    "frechet_vgg32": ("Fréchet distance to the images", "Distance to the held-out images themselves.", False),
    inception.MEASURE: ("Fréchet distance, Inception", "The FID: the same in Inception's space.", False),
} | {
    f"{name}_gap": (
        f"{name.capitalize()}, difference",
        f"How far the {name} of generated walks is from real ones.",
        False,
    )
    for name in kinematics.NUMBERS
}
HIGHER = {
    "user_accuracy": ("Right user", "How often a judge names the user that was asked for.", True),
    "user_accuracy_real": ("Right user, real images", "What the judge reaches on held-out images.", True),
    "user_accuracy_reconstructed": ("Right user, reconstructions", "The same on their reconstructions.", False),
    "diversity_ratio": ("Diversity", "Spread within a user over the real one; 0.5 is a collapse.", True),
    "memorisation_ratio": ("Distance from training", "Nearest training image, over that of held-out ones.", True),
    "precision": ("Precision", "Share of generated images that look like held-out ones.", False),
    "recall": ("Recall", "Share of held-out images that look like generated ones.", False),
    **{f"utility_{diet}": (*words, False) for diet, words in utility.DIET.items()},
    "utility_gain": ("What generated images add", "Real and generated, less real alone.", False),
}


def measures(config: Config, stage: Stage) -> dict[str, Metric]:
    """The distance to reconstructed held-out images first; nothing here has a unit, and a copyist is not a rival."""
    return {
        name: Metric("", name in LOWER, rival=False, title=title, meaning=meaning, front=front)
        for name, (title, meaning, front) in (LOWER | HIGHER).items()
    }


def score_batch(config: Config, stage: Stage, parts: Parts | None, batch: Batch) -> list[Row]:
    """A generated image for every image of the batch; the trivial predictor hands out reconstructed training images."""
    image = batch["image"].float()
    shown: dict[str, torch.Tensor] = {}
    if parts is None:
        numbers = copied(batch)
    else:
        fake = generated(config, parts, batch)
        numbers = measured(parts, fake, batch["label"], batch["decoded_feature"].float())
        shown = {"generated": fake, "reconstructed": reconstructed(parts.modules["autoencoder"], image)}
        numbers |= moved(config, shown)
        if config.eval.utility and bool(batch["tested"].all()):  # not each time a checkpoint is chosen
            numbers |= utility.hits(config, parts, image, batch["label"])
    numbers |= spread("real", batch["real_feature"]) | spread("decoded", batch["decoded_feature"])
    numbers |= {"label": batch["label"], "hit_real": batch["real_hit"], "hit_reconstructed": batch["decoded_hit"]}
    texts, rows = inception.texts(config.eval.inception, image, shown.get("generated")), []
    for i, (sample_id, group) in enumerate(zip(batch["sample_id"], batch["group"], strict=True)):
        arrays = {name: value[i].cpu().numpy() for name, value in ({"image": image} | shown).items()}
        said = texts[i] | {"user": batch["user"][i]}
        rows.append(Row(sample_id, group, {name: float(value[i]) for name, value in numbers.items()}, arrays, said))
    return rows


def moved(config: Config, shown: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """{fake, seen}_{torso, cadence, envelope} (n,) of generated and reconstructed images."""
    found: dict[str, torch.Tensor] = {}
    for kind, name in (("fake", "generated"), ("seen", "reconstructed")):
        each = [kinematics.measured(config, image.float().cpu().numpy()) for image in shown[name]]
        found |= {f"{kind}_{what}": torch.tensor([one[what] for one in each]) for what in kinematics.NUMBERS}
    return found


def copied(batch: Batch) -> dict[str, torch.Tensor]:
    """A reconstructed training image of the same user in place of a generated one."""
    return spread("fake", batch["twin_feature"].float()) | {"hit": batch["twin_hit"]}


def generated(config: Config, parts: Parts, batch: Batch) -> torch.Tensor:
    """Images (n, 3, h, w) of the users of a batch."""
    reference = parts.modules["reference"]
    noise = scoring.noise(batch, *reference.latent_shape).to(reference.mean.device)
    return generate.images(config, parts, batch["label"], noise)


def measured(parts: Parts, fake: torch.Tensor, label: torch.Tensor, held_out: torch.Tensor) -> dict[str, torch.Tensor]:
    """{number: (n,)} of generated images (n, 3, h, w), in fp32 whatever the precision of the training.

    held_out: features (n, 32) of held-out reconstructions, whose distance to the training side is the measure.
    """
    modules = parts.modules
    train = modules["reference"].train_features
    with torch.autocast(fake.device.type, enabled=False):
        feature = pooled(modules["perceptual"], fake)
        chances = modules["judge"](fake).float().softmax(1)
        return spread("fake", feature) | {
            "hit": chances.argmax(1) == label, "confidence": chances.gather(1, label[:, None])[:, 0],
            "nearest": torch.cdist(feature, train).amin(1), "nearest_held_out": torch.cdist(held_out, train).amin(1),
        }  # fmt: skip


def reconstructed(autoencoder: AutoencoderKL, image: torch.Tensor) -> torch.Tensor:
    """For the figure: what the decoder makes of held-out images (n, 3, h, w), beside which generated ones are seen."""
    return decode(autoencoder, Posterior.of(moments_of(autoencoder, image).float()).mean).float()


def summarise(config: Config, stage: Stage, rows: list[Row]) -> dict[str, float]:
    """Distances of the sets, shares of images that the judge gives to their user, and ratios to the real sets."""
    real, decoded, fake = (gathered(rows, name) for name in ("real", "decoded", "fake"))
    labels = np.array([row.numbers["label"] for row in rows])
    precision, recall = metrics.precision_recall(decoded, fake)
    found = {
        "frechet_decoded": metrics.frechet(decoded, fake),
        "kid_decoded": metrics.kernel_distance(decoded, fake) if len(rows) > 1 else float("nan"),
        "frechet_vgg32": metrics.frechet(real, fake),
        "user_accuracy": mean(rows, "hit"),
        "user_accuracy_real": mean(rows, "hit_real"),
        "user_accuracy_reconstructed": mean(rows, "hit_reconstructed"),
        "diversity_ratio": within(fake, labels) / max(within(decoded, labels), 1e-12),
        "precision": precision,
        "recall": recall,
    }
    if "nearest" in rows[0].numbers:
        found["memorisation_ratio"] = median(rows, "nearest") / max(median(rows, "nearest_held_out"), 1e-12)
    return found | usefulness(rows) | kinematics.gaps(rows) | inception.distance(rows)


def usefulness(rows: list[Row]) -> dict[str, float]:
    """Accuracy on held-out recordings of classifiers by what they learnt from, and what generated images add to real
    ones.
    """
    if "utility_real" not in rows[0].numbers:
        return {}
    found = {f"utility_{diet}": mean(rows, f"utility_{diet}") for diet in utility.DIET}
    return found | {"utility_gain": found["utility_both"] - found["utility_real"]}


def interval_of_gain(rows: list[Row]) -> tuple[float, float]:
    """95 % of the gain of generated images, recordings resampled."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row.numbers["utility_both"] - row.numbers["utility_real"])
    sums = np.array([[sum(gains), len(gains)] for gains in groups.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn, 0].sum(1) / sums[drawn, 1].sum(1), [0.025, 0.975])
    return float(low), float(high)


def of_utility(found: dict[str, float], rows: list[Row]) -> str:
    if "utility_gain" not in found:
        return ""
    low, high = interval_of_gain(rows)
    shown = "helps" if low > 0 else "harms" if high < 0 else "neither helps nor harms as far as this shows"
    return (
        f"a classifier names users of held-out recordings right in {found['utility_real']:.1%} after real images, "
        f"{found['utility_both']:.1%} after real and generated ones ({100 * low:+.1f} to {100 * high:+.1f} points: "
        f"generation {shown}), {found['utility_generated']:.1%} after generated ones alone"
    )


def of_movement(config: Config, found: dict[str, float]) -> str:
    speed, rate = ("of the height", "per picture") if kinematics.axes(config)[0] == 1 else ("m/s", "steps a second")
    return (
        f"movement, distance of generated to real: torso {found['torso_gap']:.2f} {speed}, "
        f"envelope {found['envelope_gap']:.2f} {speed}, cadence {found['cadence_gap']:.2f} {rate}"
    )


def mean(rows: list[Row], name: str) -> float:
    return float(np.mean([row.numbers[name] for row in rows]))


def median(rows: list[Row], name: str) -> float:
    return float(np.median([row.numbers[name] for row in rows]))


def within(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of two samples of one user: features (n, d), labels (n,). NaN where no user has two."""
    same = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    return float(metrics.distances(features, features)[same].mean()) if same.any() else float("nan")


def describe(config: Config, stage: Stage, scores: dict[str, Any], base: list[Row], adapted: list[Row]) -> str:
    """The guide's marks, with what the judge itself is worth beside them."""
    found = {name: metric["adapted"] for name, metric in scores["metrics"].items()}
    main, users = scores["metrics"]["frechet_decoded"], len({row.numbers["label"] for row in adapted})
    frechet, accuracy, other = found["frechet_vgg32"], found["user_accuracy"], found.get(inception.MEASURE)
    lines = [
        f"Fréchet distance to reconstructed held-out images {main['adapted']:.4g}; {scores['comparison']} "
        f"{main['base']:.4g}, reconstructed training images {main['trivial']:.4g}",
        f"to the images themselves {frechet:.4g} in the pooled VGG space, which is not Inception's "
        f"(< {FRECHET:g}: {passed(frechet < FRECHET)})",
        "" if other is None else f"in Inception's space {other:.4g} (< {FRECHET:g}: {passed(other < FRECHET)})",
        f"user accuracy {accuracy:.1%} (> {ACCURACY:.0%}: {passed(accuracy > ACCURACY)}), chance {1 / users:.1%}; "
        f"the judge on real held-out images {found['user_accuracy_real']:.1%}, on their reconstructions "
        f"{found['user_accuracy_reconstructed']:.1%}",
        f"diversity within a user {found['diversity_ratio']:.2f} of the real one: "
        + ("no collapse" if found["diversity_ratio"] > COLLAPSE else "COLLAPSED"),
        f"nearest training image {found['memorisation_ratio']:.2f} times as far as from a held-out image: "
        + ("no copies" if found["memorisation_ratio"] > COPIES else "MEMORISED"),
        f"precision {found['precision']:.2f}, recall {found['recall']:.2f}",
        of_movement(config, found) if "torso_gap" in found else "",
        of_utility(found, adapted),
    ]
    return "\n".join(f"  {line}" for line in lines if line)


def passed(mark: bool) -> str:
    return "passed" if mark else "not passed"
