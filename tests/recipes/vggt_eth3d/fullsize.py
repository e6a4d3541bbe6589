"""The full-size network on the CPU, from a file in the published format, by hand:

    python -m tests.recipes.vggt_eth3d.fullsize a [--export] [--shard] [--steps N] [--precision bf16] [--folder DIR]

Writes a synthetic checkpoint of 5 GB with the 1 797 names and shapes of ../shared/facts/vggt_keys.json, builds the
network through the recipe in a fresh process, attaches the adapters of the strategy, takes one real optimiser step on
two frames 518 wide, and prints seconds and VmHWM. With --export it merges, exports, and compares every tensor of the
export with base and adapter. With --shard the network is spread over a world of this one process, and takes the same
steps. On a GPU where there is one. Needs 5 GB of disk (10 GB with --export), 9 to 12 GB of memory and a few minutes;
--folder keeps the files.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.peak import peak_gb, seconds_since

ROOT = Path(__file__).resolve().parents[3]
KEYS = ROOT.parent / "shared" / "facts" / "vggt_keys.json"
FRAMES, WIDTH_PX, HEIGHT_PX = 2, 518, 336
LIMITS_GB = {"read": 6.0, "a": 9.0, "b": 12.0, "c": 12.0}  # VmHWM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("strategy", choices=("a", "b", "c"))
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the checkpoint and the export here")
    parser.add_argument("--shard", action="store_true", help="spread the blocks over this process alone")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--in-child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_child:
        in_child(args)
        return
    with tempfile.TemporaryDirectory(prefix="vggt-full-size-") as scratch:
        folder = args.folder or Path(scratch)
        if not (folder / "model.safetensors").exists():
            write_checkpoint(folder / "model.safetensors")
        words = [*sys.argv[1:], "--folder", str(folder), "--in-child"]
        subprocess.run([sys.executable, "-m", "tests.recipes.vggt_eth3d.fullsize", *words], cwd=ROOT, check=True)
        if args.export:
            compare(folder)


# ---------------------------------------------------------------------------------------------- the checkpoint


def write_checkpoint(path: Path) -> None:
    """Random numbers of plausible size, tensor by tensor.

    The safetensors format is a length, a JSON header, and the bytes.
    """
    import torch

    shapes = json.loads(KEYS.read_text())["keys"]
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * prod(shape)]}
        end += 4 * prod(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(numbers(name, shape, generator).numpy().tobytes())
    print(f"wrote {len(shapes)} tensors, {path.stat().st_size / 1e9:.2f} GB")


def numbers(name: str, shape: list[int], generator):
    """Norms start at 1, layer scales at 0.01, linear layers at 1 / sqrt(inputs), so that a step stays finite."""
    import torch

    drawn = torch.randn(shape, generator=generator)
    if name.endswith(".gamma"):
        return 0.01 + 0.001 * drawn
    if len(shape) == 1:
        return 0.02 * drawn + ("norm" in name and name.endswith("weight"))
    return drawn * prod(shape[1:]) ** -0.5


# ---------------------------------------------------------------------------------------------- the steps


def in_child(args: argparse.Namespace) -> None:
    import torch

    from lib import recipes
    from lib.core import processes
    from lib.core.config import from_dotted
    from lib.core.records import Stage
    from lib.network import sharding

    folder, recipe = args.folder, recipes.load("vggt_eth3d")
    said = {"strategy": args.strategy, "shard": args.shard, "threads": torch.get_num_threads()}
    settings = {
        "model.weights": str(folder / "model.safetensors"),
        "train.gradient_checkpointing": True,
        "train.epochs": 1,
    }
    config = from_dotted(recipe.Config, recipe.PRESETS[f"strategy_{args.strategy}"] | settings)
    stage, alone = Stage("adapt", args.steps), processes.accelerator(args.precision, folder)
    flags = SimpleNamespace(detect_anomaly=False)
    job = SimpleNamespace(recipe=recipe, config=config, record={}, args=flags, shard=args.shard)
    with sharding.group(alone) if args.shard else contextlib.nullcontext():
        said |= take_steps(args, job, stage, alone)
    print(json.dumps(said, indent=1), flush=True)
    refuse_above(args.strategy, said)


def take_steps(args: argparse.Namespace, job: Any, stage: Any, alone: Any) -> dict[str, Any]:
    import torch

    from lib.core.records import Sampler
    from lib.network import adapters
    from lib.network.frozen_features import FeatureCache
    from lib.network.setup import build_base
    from lib.scenes import stand_in
    from lib.training import loop
    from lib.training.state import Training

    started = time.monotonic()
    parts = build_base(job, stage, {"base": args.folder}, alone)
    said = {"read_seconds": seconds_since(started), "read_peak_gb": peak_gb()}
    wrapped = adapters.attach(parts)
    for module in parts.modules.values():
        module.to(alone.device)
    sample = stand_in.box_sample(1, FRAMES, WIDTH_PX, HEIGHT_PX)
    sampler = Sampler(1, lambda index, key: sample)
    tensors, objectives = adapters.trainable(parts), job.recipe.objectives(job.config, stage)
    cache = FeatureCache(parts, None, 0)
    training = Training(job, stage, args.folder, alone, parts, wrapped, objectives, sampler, sampler, cache, tensors)
    loop.set_up(training)
    started, losses = time.monotonic(), []
    for _ in range(args.steps):
        losses.append(loop.optimiser_step(training)["loss_objective"])
        training.step += 1
    said |= {"step_seconds": seconds_since(started) / args.steps, "peak_gb": peak_gb()}
    if alone.device.type == "cuda":
        said["gpu_peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    said |= {"trained_parameters": sum(p.numel() for p in tensors.values()), "losses": losses}
    if args.export:
        export(job, stage, parts, wrapped, args.folder)
    return said


def export(job: Any, stage: Any, parts: Any, wrapped: dict[str, Any], folder: Path) -> None:
    from lib.network import adapters

    started = time.monotonic()
    adapters.save(wrapped, folder / "adapter", parts.base)
    parts.modules |= adapters.merge(wrapped)
    (folder / "merged").mkdir(exist_ok=True)
    job.recipe.export(job.config, stage, parts, folder / "merged")
    print(f"merged and exported in {seconds_since(started)} s, peak {peak_gb()} GB")


def refuse_above(strategy: str, said: dict) -> None:
    if said["read_peak_gb"] > LIMITS_GB["read"] or said["peak_gb"] > LIMITS_GB[strategy]:
        raise SystemExit(f"above the limit: reading {LIMITS_GB['read']} GB, the step {LIMITS_GB[strategy]} GB")


# ---------------------------------------------------------------------------------------------- the export


def compare(folder: Path) -> None:
    """Every tensor of the export is the base's, bit for bit, or on an adapted layer base + alpha / rank * B A."""
    import torch
    from safetensors import safe_open

    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    times, worst, moved = config["lora_alpha"] / config["r"], 0.0, 0
    files = ("model.safetensors", "merged/model.safetensors", "adapter/adapter_model.safetensors")
    base, merged, adapter = (safe_open(folder / name, "pt") for name in files)
    names, low_rank = set(base.keys()), set(adapter.keys())
    assert set(merged.keys()) == names and len(names) == 1797, f"{len(merged.keys())} keys"
    for name in sorted(names):
        start = f"base_model.model.{name.removesuffix('.weight')}"
        one, other = base.get_tensor(name), merged.get_tensor(name)
        if f"{start}.lora_A.weight" not in low_rank or not name.endswith(".weight"):
            assert torch.equal(one, other), f"{name} changed"
            continue
        down, up = (adapter.get_tensor(f"{start}.lora_{side}.weight") for side in "AB")
        expected = one + times * (up.flatten(1) @ down.flatten(1)).view(one.shape)
        assert not torch.equal(one, other), f"{name} was not merged"
        worst, moved = max(worst, (other - expected).abs().max().item()), moved + 1
    assert worst < 1e-6, worst
    said = f"{moved} adapted tensors are base + adapter, largest difference {worst:.1e}"
    print(f"1797 keys; {said}; the rest is equal bit for bit")


if __name__ == "__main__":
    main()
