"""Memory of each process and losses of a language model of 0.4 to 0.5 G parameters, spread over 1, 2 and 4 processes.

    python -m tests.bench.shard_memory lora      a frozen base with adapters
    python -m tests.bench.shard_memory full      everything trained
    python -m tests.bench.shard_memory lora --device cuda --layers 32 --hidden 4096 --processes 1 --bf16     on one GPU

By hand: it takes half an hour, and on the CPU up to 10 GB. Each number of processes gives a row: MB that a process
holds after loading and at most from there on, beyond what it had before (resident memory without mapped files), the MB
that the closed form of lib.core.footprint says, and how far the losses of all steps are from those of one process that
holds it whole. --json FILE keeps the rows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lib.core.footprint import RUNTIME_BYTES, card_bytes
from lib.core.processes import free_port
from lib.core.records import Block, Footprint
from lib.recipes.llava_map.language_model import block_parameters

RANK = 16
BLOCKS = ("embed_tokens", r"layers\.\d+")


def main() -> None:
    args = parse()
    if "RANK" in os.environ:
        measure(args)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_base(args, Path(folder))
        for count, whole in ((1, True), *((count, False) for count in args.processes)):
            rows.append(row_of(args, ranks(folder, count, whole), count, whole))
            far = max(abs(one / other - 1) for one, other in zip(rows[-1]["losses"], rows[0]["losses"], strict=True))
            rows[-1]["losses_apart"] = far
            print({name: value for name, value in rows[-1].items() if name != "losses"}, flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def ranks(folder: str, count: int, whole: bool) -> list[dict[str, Any]]:
    """What each of `count` processes says of itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command += ["--master-port", str(free_port()), "-m", "tests.bench.shard_memory", *sys.argv[1:], "--base", folder]
    command += ["--whole"] if whole else []
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def row_of(args: argparse.Namespace, found: list[dict[str, Any]], count: int, whole: bool) -> dict[str, Any]:
    assert len(found) == count
    row = {"mode": args.mode, "processes": count, "whole": whole, "parameters": found[0]["parameters"]}
    row |= {name: max(one[name] for one in found) for name in ("loaded_MB", "peak_MB", "moved")}
    return row | {"planned_MB": planned_mb(args, count, whole), "losses": found[0]["losses"]}


def planned_mb(args: argparse.Namespace, count: int, whole: bool) -> float:
    """By the closed form; the runtime's own GB is CUDA's."""
    import math

    import torch

    with torch.device("meta"):
        network = llm(args)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    numbers, total = block_parameters(shapes), sum(map(math.prod, shapes.values()))
    if args.mode == "full":
        footprint = Footprint(0, total - sum(numbers), {}, tuple(Block(4 * n, 0, n) for n in numbers))
    else:
        each, trained = 2 if args.bf16 else 4, args.layers * 4 * RANK * 2 * args.hidden
        blocks = tuple(Block(each * n, each * n) for n in numbers)
        footprint = Footprint(each * (total - sum(numbers)), trained, {}, blocks)
    return (card_bytes(footprint, count, not whole) - RUNTIME_BYTES) / 1e6


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("mode", choices=("lora", "full"))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="what the frozen base is held in; slow on a CPU")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--whole", action="store_true", help="do not spread it (set by the script itself)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--base", default="", help="folder of the weights (set by the script itself)")
    return parser.parse_args()


def llm(args: argparse.Namespace) -> Any:
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": args.hidden, "intermediate_size": args.hidden * 11 // 4, "num_hidden_layers": args.layers}
    heads = args.hidden // 128
    return LlamaModel(LlamaConfig(**sizes, num_attention_heads=heads, num_key_value_heads=heads, vocab_size=32000))


def write_base(args: argparse.Namespace, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in llm(args).state_dict().items()}
    torch.manual_seed(0)
    kind = torch.bfloat16 if args.bf16 else torch.float32
    made = {name: (0.02 * torch.randn(shape) + (len(shape) == 1)).to(kind) for name, shape in shapes.items()}
    save_file(made, folder / "base.safetensors")


def measure(args: argparse.Namespace) -> None:
    import contextlib

    import torch
    from accelerate import Accelerator, init_empty_weights

    from lib.core.records import LoraSpec, Parts
    from lib.network import adapters, sharding, weights

    accelerator = Accelerator(cpu=args.device == "cpu")
    with sharding.group(accelerator), contextlib.nullcontext() if args.whole else sharding.over(accelerator):
        with init_empty_weights(include_buffers=False):
            network = llm(args)
        before = held(accelerator.device)
        kind = torch.bfloat16 if args.bf16 else torch.float32
        loaded = weights.load_strict(network, Path(args.base) / "base.safetensors", dtype=kind, shard=BLOCKS)
        spec = {"llm": LoraSpec((r".*\.[qkvo]_proj",), RANK, 2.0 * RANK)} if args.mode == "lora" else {}
        full = () if args.mode == "lora" else (r"llm\..*",)
        parts = Parts({"llm": network}, spec, full, base=loaded.fingerprint, shard={"llm": BLOCKS})
        sharding.complete(parts)
        network.to(accelerator.device)
        after = held(accelerator.device)
        forget_peak(accelerator.device)
        adapters.attach(parts)
        losses, moved = train(parts, accelerator, args.steps)
    found = {"loaded_MB": after - before, "peak_MB": most_held(accelerator.device) - before}
    count = sum(parameter.numel() for name, parameter in network.named_parameters() if ".lora_" not in name)
    line = json.dumps({"parameters": count} | found | {"moved": moved, "losses": losses}) + "\n"
    os.write(sys.stdout.fileno(), line.encode())  # in one piece: all processes share this pipe


def train(parts: Any, accelerator: Any, steps: int) -> tuple[list[float], float]:
    """Steps of 4 short sequences, as the loop takes them: one by one, gradients summed over all processes.

    So the same forwards are computed, whatever the number of processes. Returns the losses, and the share of the
    numbers that had a gradient which moved.
    """
    import torch

    from lib.core.records import Group
    from lib.network import adapters, gradients

    network, tensors = parts.modules["llm"], adapters.trainable(parts)
    network.gradient_checkpointing_enable({"use_reentrant": False})
    network.train()
    sums, chosen = gradients.GradientSum(tensors), gradients.optimiser(Group("all", ".*", 1e-4), list(tensors.values()))
    losses, before = [], {name: some(tensor).clone() for name, tensor in tensors.items()}
    for step in range(steps):
        torch.manual_seed(step)
        words = torch.randint(0, 32000, (4, 1, 6))
        total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        sums.clear()
        for tensor in tensors.values():
            tensor.grad = None
        for number in range(accelerator.process_index, len(words), accelerator.num_processes):
            torch.manual_seed(len(words) * step + number)  # dropout's
            begin = network.embed_tokens(words[number].to(accelerator.device))
            states = network(inputs_embeds=begin, use_cache=False).last_hidden_state
            loss = (states.float() - begin.detach().float().roll(1, 1)).square().mean() / 4
            loss.backward()
            sums.collect()
            total += loss.detach().double()
        sums.reduce(accelerator)
        losses.append(float(accelerator.reduce(total, "sum")))
        sums.give_back()
        gradients.clip(gradients.tensors_of(chosen), 1.0)
        chosen.step()
    with_gradient, moved = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for name, tensor in tensors.items():
        had = some(chosen.state[tensor]["exp_avg_sq"]) > 0
        with_gradient += had.sum()
        moved += ((some(tensor) != before[name]) & had).sum()
    return losses, float(accelerator.reduce(moved, "sum") / accelerator.reduce(with_gradient, "sum"))


def some(tensor: Any) -> Any:
    """Every 997th number of a tensor, of those that this process holds."""
    from lib.network import sharding

    return sharding.local(tensor.detach()).flatten()[::997]


def held(device: Any) -> float:
    """MB of this process: of the GPU, or resident without mapped files."""
    import torch

    return torch.cuda.memory_allocated() / 1e6 if device.type == "cuda" else status()["RssAnon"]


def forget_peak(device: Any) -> None:
    """Loading maps a file, whose pages count as resident while they are copied."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def most_held(device: Any) -> float:
    """MB at most since `forget_peak`; libraries are the only mapped files by then."""
    import torch

    told = status()
    return torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else told["VmHWM"] - told["RssFile"]


def status() -> dict[str, float]:
    """The lines in kB of what the system says of this process, as MB."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.endswith(" kB")]
    return {words[0].rstrip(":"): int(words[1]) * 1024 / 1e6 for words in lines}


if __name__ == "__main__":
    main()
