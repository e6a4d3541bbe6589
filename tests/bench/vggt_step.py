"""Seconds per training step of VGGT with frozen layers kept, against a plain loop, turn by turn in one process:

    python -m tests.bench.vggt_step [--size small|full] [--frames 8]

Plain is what most people write: the whole network under PEFT, Accelerate's `prepare`, no cache. Both see the same samples
and the same number of frames; random weights, because time does not depend on them. On a GPU also peak memory, bf16.
"""
import argparse
import json
import time

import torch

from lib import adapters, gradients
from lib.config import compose
from lib.gradients import GradientSum
from lib.prefix import PrefixCache
from lib.recipes import Parts, vggt_eth3d
from lib.recipes.vggt_eth3d import assemble, costs

SMALL = {"model.embed_dim": 192, "model.depth": 12, "model.num_heads": 6, "model.patch_embed_depth": 12, "model.patch_embed_num_heads": 6, "model.dpt_intermediate_layers": [2, 5, 8, 11]}
FULL = {"model.image_width_px": 518, "model.image_height_px": 392}
TURNS, STEPS = 3, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--strategies", default="a,b,c")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for strategy in args.strategies.split(","):
        print(json.dumps({"strategy": strategy, "size": args.size, "frames": args.frames, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"} | measure(strategy, args, device)))


def measure(strategy: str, args: argparse.Namespace, device: str) -> dict:
    cfg, _ = compose(vggt_eth3d, f"strategy_{strategy}", args.size == "small", "full", (SMALL if args.size == "small" else FULL) | {"data.distinct_epochs": 1})
    makers = {"kept": kept, "plain": plain}
    memory = {f"{name}_peak_memory_bytes": peak_memory(make, cfg, args.frames, device) for name, make in makers.items()}
    loops = {name: make(cfg, args.frames, device) for name, make in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for step in loops.values():
        step()  # warms up
    for _ in range(TURNS):
        for name, step in loops.items():
            seconds[name].append(timed(step, device))
    best = {name: min(values) / STEPS for name, values in seconds.items()}
    return {f"{name}_seconds_per_step": round(value, 4) for name, value in best.items()} | {"speedup": round(best["plain"] / best["kept"], 2)} | memory


def peak_memory(make, cfg, frames: int, device: str) -> int:
    """Bytes on the device with one loop alone; 0 on the CPU."""
    if device == "cpu":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = make(cfg, frames, device)
    step()
    step()
    return torch.cuda.max_memory_allocated()


def timed(step, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def sample(cfg, frames: int) -> dict:
    torch.manual_seed(0)
    height, width = cfg.model.image_height_px, cfg.model.image_width_px
    eye = torch.eye(3, 4).repeat(frames, 1, 1)
    eye[:, 0, 3] = torch.linspace(0, 1, frames)
    return {
        "sample_id": "s", "group": "g", "units": [f"u{i}" for i in range(frames)], "images": torch.rand(frames, 3, height, width), "depths": 1 + torch.rand(frames, height, width),
        "valid": torch.ones(frames, height, width, dtype=torch.bool), "extrinsics": eye, "intrinsics": torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(frames, 1, 1),
    }  # fmt: skip


def network(cfg, device: str):
    from lib.recipes.vggt_eth3d.model import VGGT

    torch.manual_seed(0)
    return VGGT(assemble.model_size(cfg)).to(device).eval().requires_grad_(False)


def kept(cfg, frames: int, device: str):
    """The pipeline's own way: prefix kept in memory here, flat gradient sum, no wrapper."""
    vggt = network(cfg, device)
    parts = Parts({costs.MODULE: vggt}, {costs.MODULE: assemble.lora(cfg)}, (), assemble.prefix(cfg, vggt))
    adapters.attach(parts)
    vggt.to(device)
    tensors = adapters.trainable(parts)
    sums, optimiser = GradientSum(tensors), torch.optim.AdamW(tensors.values(), lr=1e-4)
    one, cache, loss = sample(cfg, frames), PrefixCache(parts, None, 0), assemble.loss(cfg)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        front = torch.stack([cache.prefix.compute(one, unit) for unit in range(len(cache.prefix.units(one)))])
    batch = {name: value[None].to(device) if torch.is_tensor(value) else [value] for name, value in (one | {"prefix": front}).items()}

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


def plain(cfg, frames: int, device: str):
    """PEFT on the whole network, Accelerate's `prepare`, the images through every layer in every step."""
    import peft
    from accelerate import Accelerator

    vggt, spec = network(cfg, device), assemble.lora(cfg)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if device == "cuda" else "no")
    model = peft.get_peft_model(vggt, peft.LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=adapters.matched(vggt, spec, costs.MODULE)))
    model, optimiser = accelerator.prepare(model, torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4))
    batch = {name: value[None].to(device) if torch.is_tensor(value) else [value] for name, value in sample(cfg, frames).items()}

    def step() -> None:
        from lib.recipes.vggt_eth3d import losses

        model.train()
        value, _ = losses.objective(model(batch["images"]), batch, cfg.loss)
        accelerator.backward(value)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


if __name__ == "__main__":
    main()
