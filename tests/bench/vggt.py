"""VGGT at a size whose parts cost what they cost in the published network, on 24-megapixel photos.

Shares of the operations of a step in which the depth head alone is trained, measured on the network itself: DINO
forward 21 %, aggregator forward 64 %, dense and camera heads forward and backward 15 % (518x392, 8 frames).
"""

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import recipes
from lib.core.config import compose
from lib.core.order import Key
from lib.core.records import Sampler, Stage
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.model import VGGT
from lib.scenes import samples
from lib.training.keeping import MOST_SHARE
from tests.bench import loops, turns

SMALL = {
    "model.embed_dim": 192, "model.depth": 12, "model.num_heads": 6, "model.patch_embed_depth": 10,
    "model.patch_embed_num_heads": 6, "model.dpt_intermediate_layers": [2, 5, 8, 11], "model.dpt_features": 24,
    "model.dpt_output_hidden": 24, "model.dpt_out_channels": [24, 48, 64, 64], "model.camera_trunk_depth": 1,
    "model.camera_num_heads": 6, "model.img_size": 252, "model.image_width_px": 252, "model.image_height_px": 168,
    "data.frames": [4, 4], "lora.rank": 2,  # of 24 channels in the head: what 16 of the published 256 cost
}  # fmt: skip
FULL = {"model.image_width_px": 518, "model.image_height_px": 392, "data.frames": [8, 8]}
BOTH = {"model.weights": "none.safetensors", "train.global_batch": 1, "train.micro_batch": 1}
PHOTO_PX, VIEWS, DISTINCT = (6000, 4000), 8, 4  # width and height; views on disk; samples that come again
GRAIN = 3.0  # standard deviation of what a sensor adds, in levels of 255: the files then have a camera's 8 to 10 MB
STAGE = Stage("adapt", 100_000)
LETTERS = ("a", "b", "c")


def measure(letter: str, turns_each: int, full: bool = False) -> dict[str, Any]:
    """Of one strategy."""
    with tempfile.TemporaryDirectory() as name:
        folder, config = Path(name), composed("a", full, "blocks")
        weights(config, folder)
        scene = photographed(config, folder)
        return {"shares of a step of a": shares(config)} | strategy(letter, folder, scene, turns_each, full)


def composed(letter: str, full: bool, policy: str) -> Config:
    settings = BOTH | (FULL if full else SMALL) | {"cache.policy": policy, "data.distinct_epochs": 1}
    return compose(recipes.load("vggt_eth3d"), f"strategy_{letter}", False, "full", settings)[0]


def strategy(letter: str, folder: Path, scene: samples.Scene, turns_each: int, full: bool) -> dict[str, Any]:
    """Seconds of a step of one strategy, and what they say of an epoch on the mean over a training.

    An epoch by default: the samples of A and B come again after one epoch in MOST_SHARE, the images of C after the
    first, so so many of the epochs fill the cache and the others read it.
    """
    recipe, kept = recipes.load("vggt_eth3d"), composed(letter, full, "tokens" if letter == "c" else "blocks")
    none = composed(letter, full, "none")
    places, length = {"base": folder}, kept.data.frames[1]
    work: dict[str, loops.Step] = {}
    makers = {"cached": (kept, True, False), "filling": (kept, True, True), "uncached": (none, False, False)}
    for name, (config, keep, fresh) in makers.items():
        parts = recipe.build(config, STAGE, places)
        sampler = Sampler(DISTINCT, drawn(scene, length, fresh))
        made = loops.training(folder / f"{letter}-{name}", recipe, config, STAGE, parts, sampler, keep)
        work[name] = loops.ours(made)
        for _ in range(DISTINCT if name == "cached" else 0):
            work[name]()
        if name == "cached":
            work["floor"] = loops.floor(made)
    read = functools.partial(decoded, scene, folder, none)
    work["peer"] = loops.peer(recipe, none, STAGE, recipe.build(none, STAGE, places), DISTINCT, read)
    found = turns.in_turns(work, turns_each)
    share = 1 / none.train.epochs if letter == "c" else 1 / MOST_SHARE
    mixed = {key: share * found["filling"][key] + (1 - share) * found["cached"][key] for key in found["cached"]}
    found["default"] = mixed
    ratios = {
        f"{slow}/{fast}": turns.ratio(found, slow, fast)
        for slow, fast in (("peer", "default"), ("uncached", "cached"), ("uncached", "default"), ("cached", "floor"))
    }
    memory = {name: step_bytes(step) for name, step in work.items()} if torch.cuda.is_available() else {}
    return {"seconds": found, "ratios": ratios, "filling_share": share, "device bytes of a step": memory}


def step_bytes(step: loops.Step) -> int:
    """The peak on the device during a step over what lies there anyway: weights, moments, what other loops hold."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


# ---------------------------------------------------------------------------------------------- what they read


def weights(config: Config, folder: Path) -> None:
    """Random ones, because time does not depend on them; in the file that model.weights names."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(VGGT(config.model).state_dict(), folder / "none.safetensors")


def photographed(config: Config, folder: Path) -> samples.Scene:
    """A walk past a wall: photos as a camera leaves them, and beside them what step 3 makes of them."""
    scene, generator = walk(config, folder), np.random.default_rng(0)
    for name in scene.views:
        photo = photograph(generator)
        photo.save(folder / f"{name}.jpg", quality=92)
        small = photo.resize((config.model.image_width_px, config.model.image_height_px))
        np.save(folder / f"{name}.image.npy", np.asarray(small))
    return scene


def walk(config: Any, folder: Path) -> samples.Scene:
    """The same walk as step 3 leaves it, in noise."""
    width, height = config.model.image_width_px, config.model.image_height_px
    generator, names = np.random.default_rng(0), [f"{number}" for number in range(VIEWS)]
    for name in names:
        np.save(folder / f"{name}.image.npy", generator.integers(0, 256, (height, width, 3), np.uint8))
        np.save(folder / f"{name}.depth.npy", 1 + generator.random((height, width), dtype=np.float32))
    poses = np.tile(np.eye(3, 4), (VIEWS, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 1, VIEWS)
    camera = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    covisibility = 0.5 * (1 - np.eye(VIEWS))
    return samples.Scene("wall", "wall", folder, names, poses, np.tile(camera, (VIEWS, 1, 1)), covisibility)


def photograph(generator: np.random.Generator) -> Any:
    """24 megapixels whose JPEG is as large as a camera's."""
    from PIL import Image

    small = Image.fromarray(generator.integers(0, 256, (400, 600, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(PHOTO_PX, Image.Resampling.BICUBIC))
    grain = np.tile(generator.normal(0, GRAIN, (1000, 1000, 3)), (PHOTO_PX[1] // 1000, PHOTO_PX[0] // 1000, 1))
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def frames(index: int, length: int) -> np.ndarray:
    return (index + np.arange(length)) % VIEWS


def drawn(scene: samples.Scene, length: int, fresh: bool) -> Any:
    """fresh: every draw is a sample, of images, that was never seen before."""
    number = itertools.count()

    def draw(index: int, key: Key) -> dict[str, Any]:
        found = samples.load(scene, frames(index, length), False)
        if not fresh:
            return found
        name = f"{next(number)}"
        return found | {"sample_id": name, "units": [f"{name}/{unit}" for unit in found["units"]]}

    return draw


def decoded(scene: samples.Scene, folder: Path, config: Config, index: int) -> dict[str, Any]:
    """What a dataset of one's own does: open, convert, resize."""
    from PIL import Image

    size, chosen = (config.model.image_width_px, config.model.image_height_px), frames(index, config.data.frames[1])
    found = samples.load(scene, chosen, False)
    pictures = [
        np.asarray(Image.open(folder / f"{scene.views[i]}.jpg").convert("RGB").resize(size), np.float32) / 255
        for i in chosen
    ]
    return found | {"images": np.stack(pictures).transpose(0, 3, 1, 2)}


def shares(config: Config) -> dict[str, float]:
    """Of the operations of a step that trains the heads, by part; counted by torch, attention included."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    network = VGGT(config.model).requires_grad_(False)
    network.depth_head.requires_grad_(True)
    images = torch.rand(1, config.data.frames[1], 3, config.model.image_height_px, config.model.image_width_px)

    def counted(work: Any) -> tuple[Any, int]:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            made = work()
        return made, counter.get_total_flops()

    with torch.no_grad():
        patches, dino = counted(lambda: network.front(images, 0))
        layers, aggregator = counted(lambda: network.layers(images, patches, 0))

    def head() -> None:
        depth: Any = network.predict(layers, *images.shape[-2:])["depth"]
        depth.sum().backward()

    _, heads = counted(head)
    whole = dino + aggregator + heads
    parts = {"dino": dino, "aggregator": aggregator, "heads": heads}
    return {name: round(value / whole, 3) for name, value in parts.items()}
