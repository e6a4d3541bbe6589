"""What a step costs more for each frame and each rank, and what the order of the samples costs in their number."""

import tempfile
from pathlib import Path
from typing import Any

from lib import recipes
from lib.core import order
from lib.core.config import compose
from lib.core.records import Sampler
from tests.bench import loops, turns, vggt

FRAMES, RANKS, SAMPLES = (2, 4, 8), (4, 16, 64), (1_000, 1_000_000)


def measure(turns_each: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = vggt.composed("b", False, "blocks")
        vggt.weights(config, folder)
        scene = vggt.photographed(config, folder)
        work = {f"{count} frames": cached(folder, scene, {"data.frames": [count, count]}) for count in FRAMES}
        work |= {f"rank {rank}": cached(folder, scene, {"lora.rank": rank}) for rank in RANKS}
        for count in SAMPLES:
            work[f"{count} samples, order of one step"] = ordered(count)
        return turns.in_turns(work, turns_each)


def cached(folder: Path, scene: Any, settings: dict[str, Any]) -> loops.Step:
    """A step of strategy B whose units are kept."""
    recipe, said = recipes.load("vggt_eth3d"), vggt.BOTH | vggt.SMALL | settings
    config, _ = compose(
        recipe, "strategy_b", False, "full", said | {"cache.policy": "blocks", "data.distinct_epochs": 1}
    )
    parts = recipe.build(config, vggt.STAGE, {"base": folder})
    sampler = Sampler(1, vggt.drawn(scene, config.data.frames[1], fresh=False))
    place = folder / "-".join(f"{value}" for value in settings.values())
    return loops.ours(loops.training(place, recipe, config, vggt.STAGE, parts, sampler, keep=True))


def ordered(count: int) -> loops.Step:
    """The keys of a step in the middle of the first epoch; the epoch's order itself is drawn once."""
    orders: dict[int, Any] = {}
    return lambda: order.micro_batch_keys(count // 16, 0, 8, 8, 0, count, orders)
