"""Depth Anything 3 SMALL at full size, four views of 504 x 336: a step of strategy B, part by part.

Random weights and pictures, because time depends on neither. Parts are the forwards that a step is made of; the floor
is forward and backward of what is trained. The peak is that of the steps alone, of the whole process.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib import recipes
from lib.core.config import compose
from lib.core.records import Sampler
from lib.recipes.da3_eth3d import costs
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.model import DA3
from lib.training import one_step
from tests.bench import loops, turns, vggt
from tests.peak import peak_gb

PRESET, VIEWS, DISTINCT = "small_b", 4, 2
SETTINGS = {"model.weights": "none.safetensors", "data.frames": [VIEWS, VIEWS], "data.distinct_epochs": 1}
GOALS = {"cached/floor": 1.10, "peak_gb": 4.0}


def measure(folder: Path, turns_each: int) -> dict[str, Any]:
    weights(composed("none"), folder)
    scene = vggt.walk(composed("none"), folder)
    work: dict[str, loops.Step] = {}
    parts: dict[str, Callable[[], object]] = {}
    count_peak_anew()
    for kind, policy in (("cached", "blocks"), ("tokens", "tokens"), ("uncached", "none")):
        made = training(folder / kind, composed(policy), scene, {"base": folder})
        work[kind] = loops.ours(made)
        for _ in range(DISTINCT):
            work[kind]()
        if kind == "cached":
            work["floor"], parts = loops.floor(made), parts_of(made)
    found = turns.in_turns(work, turns_each)
    ratios = {f"{one}/floor": turns.ratio(found, one, "floor") for one in ("cached", "tokens", "uncached")}
    said = {"seconds": found, "ratios": ratios, "peak_gb": peak_gb(), "goals": GOALS}
    return said | {"parts": turns.in_turns(parts, turns_each)}


def composed(policy: str) -> Config:
    return compose(recipes.load("da3_eth3d"), PRESET, False, "full", SETTINGS | {"cache.policy": policy})[0]


def weights(config: Config, folder: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = DA3(config.model).state_dict()
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, folder / "none.safetensors")


def training(folder: Path, config: Config, scene: Any, places: dict[str, Path]) -> Any:
    recipe = recipes.load("da3_eth3d")
    parts = recipe.build(config, vggt.STAGE, places)
    sampler = Sampler(DISTINCT, vggt.drawn(scene, VIEWS, fresh=False))
    return loops.training(folder, recipe, config, vggt.STAGE, parts, sampler, keep=config.cache.policy != "none")


def parts_of(made: Any) -> dict[str, Callable[[], object]]:
    """What a step runs through, one after another, without gradients, on views that are in memory."""
    batch, _ = made.batches.take(one_step.keys_of(made, made.step, 0))
    network, images = made.parts.modules[costs.MODULE], batch["images"]
    blocks, depth = costs.frozen_blocks(made.job.config), network.size.depth
    with torch.no_grad():
        pictures = network.front(images)
        views = network.front_of_views(images, pictures, None, blocks)
        patches = network.read(images, views, None, "first", blocks).patches
    tokens = views[..., -network.size.embed_dim :]
    found = {
        f"blocks 0-{network.size.alt_start - 1}": lambda: network.front(images),
        f"blocks {network.size.alt_start}-{blocks - 1}": lambda: network.front_of_views(images, pictures, None, blocks),
        f"blocks {blocks}-{depth - 1}, trained": lambda: network.trunk.across(images, tokens, blocks, depth),
        "dense head": lambda: network.head(patches, *images.shape[-2:], False),
    }
    return {name: torch.no_grad()(work) for name, work in found.items()}


def count_peak_anew() -> None:
    """The highest memory use of this process counts from now on."""
    Path("/proc/self/clear_refs").write_text("5")
