"""What generated spectrograms are good for: a classifier that learns from real ones, from both, or from generated ones
alone, tested on held-out recordings.

It is a judge (judge.py) with another seed than the one that measures user_accuracy, and as many steps in all three
cases, so that more images are no more training. Generated images are as many as real ones, with the same users.
"""

import hashlib
import weakref

import torch
from torch import Tensor

from lib.core.order import Key
from lib.core.records import Parts
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import generate, judge

SEEDS = (101, 102, 103)
SIDE_PX = 32  # of what they look at: at 64 each takes 3.3 times as long and is right as often (96.3 % in the demo)
# What a classifier learns from: title and meaning of how often it is right.
DIET = {
    "real": ("Classifier from real images", "How often it names the user of a held-out image."),
    "both": ("Classifier from real and generated", "The same, taught by both."),
    "generated": ("Classifier from generated images", "The same, taught by generated ones alone."),
}
BATCH, PART = 32, 1000  # images that are drawn, and made small, at once
GENERATED = 2000  # images at most; the users take turns

Images = tuple[Tensor, Tensor]  # (n, 3, SIDE_PX, SIDE_PX) uint8 and labels (n,), on the CPU
KNOWN: "weakref.WeakKeyDictionary[torch.nn.Module, dict[str, list[judge.Judge]]]" = weakref.WeakKeyDictionary()
OF_REAL: dict[str, list[judge.Judge]] = {}  # hash of real images -> their classifiers: base and adapted share them


def hits(config: Config, parts: Parts, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """{utility_real, utility_both, utility_generated: (n,)}: shares of the seeds whose classifier names the user of
    held-out images (n, 3, h, w). The classifiers of a network are trained when it is first asked for.
    """
    velocity, found = parts.modules["dit"], {}
    if velocity not in KNOWN:
        KNOWN[velocity] = trained(parts, generated(config, parts))
    with torch.autocast(image.device.type, enabled=False):  # a measure is taken in fp32
        for diet, classifiers in KNOWN[velocity].items():
            named = [classifier(image).argmax(1) == label for classifier in classifiers]
            found[f"utility_{diet}"] = torch.stack(named).float().mean(0)
    return found


def trained(parts: Parts, made: Images) -> dict[str, list[judge.Judge]]:
    """Classifiers by diet. made: what the network generates."""
    reference = parts.modules["reference"]
    some = reference.learning_images.split(PART)
    real = torch.cat([judge.small(part / 127.5 - 1, SIDE_PX) for part in some]), reference.learning_labels
    key = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in real)).hexdigest()
    if key not in OF_REAL:
        OF_REAL[key] = taught(parts, real)
    both = torch.cat([real[0], made[0]]), torch.cat([real[1], made[1]])
    return {"real": OF_REAL[key], "both": taught(parts, both), "generated": taught(parts, made)}


def taught(parts: Parts, images: Images) -> list[judge.Judge]:
    """A classifier for each seed, trained in fp32, as the judge is."""
    reference = parts.modules["reference"]
    device, users = reference.mean.device, len(reference.users)
    with torch.enable_grad(), torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        return [judge.learn(*images, users, device, seed) for seed in SEEDS]


@torch.no_grad()
def generated(config: Config, parts: Parts) -> Images:
    """Images of new noise, as many of each user as there are real ones."""
    reference, found = parts.modules["reference"], []
    shape, labels = reference.latent_shape, reference.learning_labels[:GENERATED]
    for start in range(0, len(labels), BATCH):
        mine = labels[start : start + BATCH]
        noise = torch.from_numpy(Key(config.train.seed, SEEDS[0], start).generator().standard_normal(
            (len(mine), *shape), dtype="float32"))  # fmt: skip
        device = reference.mean.device
        drawn = generate.images(config, parts, mine.to(device), noise.to(device))
        found.append(judge.small(drawn, SIDE_PX).cpu())
    return torch.cat(found), labels
