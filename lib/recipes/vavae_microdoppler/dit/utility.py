"""What generated spectrograms are good for: a classifier that learns from real ones, from both, or from generated ones
alone, tested on held-out recordings.

It is a judge (judge.py) with another seed than the one that measures user_accuracy, and as many steps in all three
cases, so that more images are no more training. Generated images are as many as real ones, with the same users.
"""

import weakref

import torch
from torch import Tensor

from lib.core.order import Key
from lib.core.records import Parts
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import generate, judge

SEEDS = (101, 102, 103)
# What a classifier learns from: title and meaning of how often it is right.
DIET = {
    "real": ("Classifier from real images", "How often it names the user of a held-out image."),
    "both": ("Classifier from real and generated", "The same, taught by both."),
    "generated": ("Classifier from generated images", "The same, taught by generated ones alone."),
}
BATCH = 32
GENERATED = 2000  # images at most; the users take turns

Classifiers = dict[str, list[judge.Judge]]
KNOWN: "weakref.WeakKeyDictionary[torch.nn.Module, Classifiers]" = weakref.WeakKeyDictionary()


def hits(config: Config, parts: Parts, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """{utility_real, utility_both, utility_generated: (n,)}: shares of the seeds whose classifier names the user of
    held-out images (n, 3, h, w). The classifiers of a network are trained when it is first asked for.
    """
    velocity, found = parts.modules["dit"], {}
    if velocity not in KNOWN:
        KNOWN[velocity] = trained(config, parts, generated(config, parts))
    with torch.autocast(image.device.type, enabled=False):  # a measure is taken in fp32
        for diet, classifiers in KNOWN[velocity].items():
            named = [classifier(image).argmax(1) == label for classifier in classifiers]
            found[f"utility_{diet}"] = torch.stack(named).float().mean(0)
    return found


def trained(config: Config, parts: Parts, made: tuple[Tensor, Tensor]) -> Classifiers:
    """made: what the network generates, as `generated` gives it. Trained in fp32, as the judge is."""
    reference = parts.modules["reference"]
    device, users = reference.mean.device, len(reference.users)
    real = reference.learning_images, reference.learning_labels
    both = torch.cat([real[0], made[0]]), torch.cat([real[1], made[1]])
    sets: dict[str, tuple[Tensor, Tensor]] = {"real": real, "both": both, "generated": made}
    with torch.enable_grad(), torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        return {diet: [judge.learn(*sets[diet], users, device, seed) for seed in SEEDS] for diet in DIET}


@torch.no_grad()
def generated(config: Config, parts: Parts) -> tuple[Tensor, Tensor]:
    """(small images (n, 3, 64, 64) uint8, labels (n,)) of new noise, on the CPU; as many of each user as there are."""
    reference, found = parts.modules["reference"], []
    shape, labels = reference.latent_shape, reference.learning_labels[:GENERATED]
    for start in range(0, len(labels), BATCH):
        mine = labels[start : start + BATCH]
        noise = torch.from_numpy(Key(config.train.seed, SEEDS[0], start).generator().standard_normal(
            (len(mine), *shape), dtype="float32"))  # fmt: skip
        device = reference.mean.device
        found.append(judge.small(generate.images(config, parts, mine.to(device), noise.to(device))).cpu())
    return torch.cat(found), labels
