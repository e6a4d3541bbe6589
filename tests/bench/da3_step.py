"""Seconds per training step of Depth Anything 3, part by part, with the frozen front kept and without:

    python -m tests.bench.da3_step [--preset small_b] [--views 4] [--precision fp32]

Random weights and pictures at the recipe's own size, because time depends on neither. "floor" is what the trained part
alone takes: loss and backward from kept tokens, without drawing or the optimiser. Peak memory is the process's.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable

import torch

from lib import recipes
from lib.core.config import compose
from lib.core.records import Parts
from lib.network import adapters
from lib.recipes.da3_eth3d import assemble, costs
from lib.recipes.da3_eth3d.config import Config
from lib.recipes.da3_eth3d.model import DA3

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="small_b")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config: Config = compose(recipes.load("da3_eth3d"), args.preset, False, "full", {})[0]
    print(json.dumps(vars(args) | {"device": device} | measured(config, args.views, args.precision, device)))


def measured(config: Config, views: int, precision: str, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    network = DA3(config.model).to(device).eval().requires_grad_(False)
    parts = Parts({costs.MODULE: network}, {costs.MODULE: assemble.lora(config)}, costs.full_tensors(config))
    adapters.attach(parts)
    trained = list(adapters.trainable(parts).values())
    optimiser, loss = torch.optim.AdamW(trained, lr=1e-4), assemble.loss(config)
    batch = pictures(config, views, device)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

    def step(given: dict, moves: bool = True) -> None:
        with torch.autocast(device, kind, enabled=kind != torch.float32):
            value, _ = loss(parts, given, 0)
        value.backward()
        if moves:
            optimiser.step()
        optimiser.zero_grad()

    with torch.no_grad():
        front = network.front(batch["images"])
        found = {"front_seconds": timed(lambda: network.front(batch["images"]), device)}
    kept = batch | {"frozen_features": front}
    found |= {
        "uncached_seconds": timed(lambda: step(batch), device),
        "cached_seconds": timed(lambda: step(kept), device),
        "floor_seconds": timed(lambda: step(kept, moves=False), device),
        "peak_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024),
    }
    return found | ({"device_peak_bytes": float(torch.cuda.max_memory_allocated())} if device == "cuda" else {})


def timed(run: Callable[[], object], device: str) -> float:
    """The smallest of STEPS times, after one that warms up."""
    times = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return round(min(times[1:]), 4)


def pictures(config: Config, views: int, device: str) -> dict:
    """Random pictures with flat depth along a straight walk, as a batch of one sample."""
    height, width = config.model.image_height_px, config.model.image_width_px
    walk = torch.eye(3, 4).repeat(1, views, 1, 1)
    walk[0, :, 0, 3] = torch.linspace(0, 1, views)
    camera = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    found = {
        "images": torch.rand(1, views, 3, height, width),
        "depths": 1 + torch.rand(1, views, height, width),
        "valid": torch.ones(1, views, height, width, dtype=torch.bool),
        "extrinsics": walk,
        "intrinsics": camera.expand(1, views, 3, 3).clone(),
    }
    return {name: value.to(device) for name, value in found.items()}


if __name__ == "__main__":
    main()
