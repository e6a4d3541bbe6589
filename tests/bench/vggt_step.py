"""Seconds per training step of VGGT with frozen layers kept, against a plain loop, turn by turn in one process:

    python -m tests.bench.vggt_step [--size small|full] [--frames 8]

Plain is what most people write: the whole network under PEFT, Accelerate's `prepare`, no cache. Both see the same
samples and the same number of frames; random weights, because time does not depend on them. On a GPU also peak memory,
bf16.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

from lib import recipes
from lib.core.config import compose
from lib.core.records import Parts
from lib.network import adapters, gradients
from lib.network.frozen_features import FeatureCache
from lib.network.gradients import GradientSum
from lib.recipes.vggt_eth3d import assemble, costs, losses
from lib.recipes.vggt_eth3d.config import Config
from lib.recipes.vggt_eth3d.model import VGGT

SMALL = {
    "model.weights": "none.safetensors", "model.embed_dim": 192, "model.depth": 12, "model.num_heads": 6,
    "model.patch_embed_depth": 12, "model.patch_embed_num_heads": 6,
    "model.dpt_intermediate_layers": [2, 5, 8, 11],
}  # fmt: skip
FULL = {"model.image_width_px": 518, "model.image_height_px": 392}
TURNS, STEPS = 3, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--strategies", default="a,b,c")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    for strategy in args.strategies.split(","):
        said = {"strategy": strategy, "size": args.size, "frames": args.frames, "device": name}
        print(json.dumps(said | measure(strategy, args, device)))


def measure(strategy: str, args: argparse.Namespace, device: str) -> dict:
    recipe, small = recipes.load("vggt_eth3d"), args.size == "small"
    settings = (SMALL if small else FULL) | {"data.distinct_epochs": 1, "cache.policy": "blocks"}
    config, _ = compose(recipe, f"strategy_{strategy}", small, "full", settings)
    makers = {"kept": kept, "plain": plain}
    memory = {
        f"{name}_peak_memory_bytes": peak_memory(make, config, args.frames, device) for name, make in makers.items()
    }
    loops = {name: make(config, args.frames, device) for name, make in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for step in loops.values():
        step()  # warms up
    for _ in range(TURNS):
        for name, step in loops.items():
            seconds[name].append(timed(step, device))
    best = {name: min(values) / STEPS for name, values in seconds.items()}
    return (
        {f"{name}_seconds_per_step": round(value, 4) for name, value in best.items()}
        | {"speedup": round(best["plain"] / best["kept"], 2)}
        | memory
    )


def peak_memory(make: Callable[..., Callable[[], None]], config: Config, frames: int, device: str) -> int:
    """Bytes on the device with one loop alone; 0 on the CPU."""
    if device == "cpu":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = make(config, frames, device)
    step()
    step()
    return torch.cuda.max_memory_allocated()


def timed(step: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def sample(config: Config, frames: int) -> dict:
    """Random pictures and flat depth along a straight walk, in the shapes of `samples.load`."""
    torch.manual_seed(0)
    height, width = config.model.image_height_px, config.model.image_width_px
    eye = torch.eye(3, 4).repeat(frames, 1, 1)
    eye[:, 0, 3] = torch.linspace(0, 1, frames)
    return {
        "sample_id": "s",
        "group": "g",
        "units": [f"u{i}" for i in range(frames)],
        "images": torch.rand(frames, 3, height, width),
        "depths": 1 + torch.rand(frames, height, width),
        "valid": torch.ones(frames, height, width, dtype=torch.bool),
        "extrinsics": eye,
        "intrinsics": torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(frames, 1, 1),
    }


def on_device(sample: dict, device: str) -> dict:
    """A batch of one sample."""
    return {name: one[None].to(device) if torch.is_tensor(one) else [one] for name, one in sample.items()}


def network(config: Config, device: str) -> VGGT:
    torch.manual_seed(0)
    return VGGT(config.model).to(device).eval().requires_grad_(False)


def kept(config: Config, frames: int, device: str) -> Callable[[], None]:
    """The pipeline's own way: frozen features kept in memory here, flat gradient sum, no wrapper."""
    vggt = network(config, device)
    front = assemble.frozen_features(config, vggt)
    parts = Parts({costs.MODULE: vggt}, {costs.MODULE: assemble.lora(config)}, (), front)
    adapters.attach(parts)
    vggt.to(device)
    tensors = adapters.trainable(parts)
    sums, optimiser = GradientSum(tensors), torch.optim.AdamW(tensors.values(), lr=1e-4)
    one, cache, loss = sample(config, frames), FeatureCache(parts, None, 0), assemble.loss(config)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        filled = cache.fill(one)
    batch = on_device(filled, device)

    def step() -> None:
        adapters.set_mode(parts, training=True)
        sums.clear()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value, _ = loss(parts, batch, 0)
        value.backward()
        sums.collect()
        sums.give_back()
        gradients.clip(list(tensors.values()), 1.0)
        optimiser.step()

    return step


def plain(config: Config, frames: int, device: str) -> Callable[[], None]:
    """PEFT on the whole network, Accelerate's `prepare`, the images through every layer in every step."""
    import peft
    from accelerate import Accelerator

    vggt, spec = network(config, device), assemble.lora(config)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if device == "cuda" else "no")
    layers = adapters.matched(vggt, spec, costs.MODULE)
    lora = peft.LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=layers)
    model = peft.get_peft_model(vggt, lora)
    optimiser = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    model, optimiser = accelerator.prepare(model, optimiser)
    batch = on_device(sample(config, frames), device)

    def step() -> None:
        model.train()
        value, _ = losses.objective(model(batch["images"]), batch, config.loss)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


if __name__ == "__main__":
    main()
