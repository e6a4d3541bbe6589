"""What step 5 measures of generated spectrograms: one is drawn for every held-out image, with its user.

Fréchet and kernel distance are stated in the pooled VGG/LPIPS space of the autoencoder's stages (32 numbers), not in Inception's:
they compare with themselves only. The trivial column is a copyist, who hands out training images: it beats every generator in
distance and accuracy, and is what memorisation looks like.
"""

from typing import Any

import numpy as np
import torch

from lib.recipes import Metric, Parts, Row
from lib.recipes.vavae_microdoppler import generate, metrics
from lib.recipes.vavae_microdoppler.autoencoder import decode, moments_of
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.evaluate import gathered, pooled, spread
from lib.recipes.vavae_microdoppler.losses import Posterior

FRECHET, ACCURACY, COLLAPSE, COPIES = 50.0, 0.8, 0.5, 0.5  # the guide's marks; below the last two is a collapse, are copies
MEASURES = {
    "frechet_vgg32": Metric("", True), "kid_vgg32": Metric("", True), "user_accuracy": Metric("", False),
    "user_accuracy_real": Metric("", False), "user_accuracy_reconstructed": Metric("", False), "diversity_ratio": Metric("", False),
    "memorisation_ratio": Metric("", False), "precision": Metric("", False), "recall": Metric("", False),
}  # fmt: skip


def score_batch(cfg: Config, parts: Parts | None, batch: dict[str, Any]) -> list[Row]:
    image, real = batch["image"].float(), batch["real_feature"].float()
    if parts is None:
        numbers, shown = copied(batch), {}
    else:
        numbers, shown = generated(cfg, parts, image, real, batch["label"])
    numbers |= spread("real", real) | {"label": batch["label"], "hit_real": batch["real_hit"]}
    rows = []
    for i, (sample_id, group) in enumerate(zip(batch["sample_id"], batch["group"], strict=True)):
        arrays = {"image": image[i].cpu().numpy()} | {name: value[i].cpu().numpy() for name, value in shown.items()}
        rows.append(Row(sample_id, group, {name: float(value[i]) for name, value in numbers.items()}, arrays))
    return rows


def copied(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A training image of the same user in place of a generated one."""
    return spread("fake", batch["twin_feature"].float()) | {"hit": batch["twin_hit"]}


def generated(cfg: Config, parts: Parts, image: torch.Tensor, real: torch.Tensor, label: torch.Tensor) -> tuple[dict, dict]:
    """(numbers, pictures). The noise comes from torch's CPU generator, which lib seeds by the sample's index."""
    modules = parts.modules
    train, judge = modules["reference"].train_features, modules["judge"]
    noise = torch.randn(len(label), *modules["reference"].latent_shape).to(image.device)
    fake = generate.images(cfg, parts, label, noise)
    feature = pooled(modules["perceptual"], fake)
    chances = judge(fake).float().softmax(1)
    recon = decode(modules["autoencoder"], Posterior.of(moments_of(modules["autoencoder"], image).float()).mean).float()
    numbers = spread("fake", feature) | {
        "hit": chances.argmax(1) == label, "confidence": chances.gather(1, label[:, None])[:, 0],
        "hit_reconstructed": judge(recon).argmax(1) == label,
        "nearest": torch.cdist(feature, train).amin(1), "nearest_real": torch.cdist(real, train).amin(1),
    }  # fmt: skip
    return numbers, {"generated": fake}


def summarise(rows: list[Row]) -> dict[str, float]:
    real, fake = gathered(rows, "real"), gathered(rows, "fake")
    labels = np.array([row.numbers["label"] for row in rows])
    precision, recall = metrics.precision_recall(real, fake)
    found = {
        "frechet_vgg32": metrics.frechet(real, fake),
        "kid_vgg32": metrics.kernel_distance(real, fake) if len(rows) > 1 else float("nan"),
        "user_accuracy": mean(rows, "hit"),
        "user_accuracy_real": mean(rows, "hit_real"),
        "diversity_ratio": within(fake, labels) / max(within(real, labels), 1e-12),
        "precision": precision,
        "recall": recall,
    }
    if "nearest_real" in rows[0].numbers:
        found["user_accuracy_reconstructed"] = mean(rows, "hit_reconstructed")
        found["memorisation_ratio"] = median(rows, "nearest") / max(median(rows, "nearest_real"), 1e-12)
    return found


def mean(rows: list[Row], name: str) -> float:
    return float(np.mean([row.numbers[name] for row in rows]))


def median(rows: list[Row], name: str) -> float:
    return float(np.median([row.numbers[name] for row in rows]))


def within(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of two samples of one user; NaN where no user has two."""
    same = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    return float(metrics.distances(features, features)[same].mean()) if same.any() else float("nan")


def describe(scores: dict[str, Any], rows: list[Row]) -> str:
    """The guide's marks, with what the judge itself is worth beside them."""
    found = {name: metric["adapted"] for name, metric in scores["metrics"].items()}
    users = len({row.numbers["label"] for row in rows})
    word = lambda passed: "passed" if passed else "not passed"  # noqa: E731
    return "\n".join([
        f"  Fréchet distance {found['frechet_vgg32']:.4g} in the pooled VGG space, which is not Inception's (< {FRECHET:g}: {word(found['frechet_vgg32'] < FRECHET)}); "
        f"{scores['comparison']} {scores['metrics']['frechet_vgg32']['base']:.4g}, training images instead {scores['metrics']['frechet_vgg32']['trivial']:.4g}",
        f"  user accuracy {found['user_accuracy']:.1%} (> {ACCURACY:.0%}: {word(found['user_accuracy'] > ACCURACY)}), chance {1 / users:.1%}; "
        f"the judge on real held-out images {found['user_accuracy_real']:.1%}, on their reconstructions {found['user_accuracy_reconstructed']:.1%}",
        f"  diversity within a user {found['diversity_ratio']:.2f} of the real one ({'no collapse' if found['diversity_ratio'] > COLLAPSE else 'COLLAPSED'})",
        f"  nearest training image {found['memorisation_ratio']:.2f} times as far as from a real held-out image "
        f"({'no copies' if found['memorisation_ratio'] > COPIES else 'MEMORISED'})",
        f"  precision {found['precision']:.2f}, recall {found['recall']:.2f}",
    ])  # fmt: skip
