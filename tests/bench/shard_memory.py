"""Memory of each process and losses of a language model of 0.4 to 0.5 G parameters, spread over 1, 2 and 4 processes.

    python -m tests.bench.shard_memory lora      a frozen base with adapters
    python -m tests.bench.shard_memory full      everything trained
    python -m tests.bench.shard_memory lora --device cuda --layers 32 --hidden 4096 --processes 1 --bf16     on one GPU

Measured on a CPU with 0.48 G parameters in fp32, 1 915 MB: on 1, 2 and 4 processes each held 1 947, 934 and 468 MB
after loading, and with adapters at most 2 548, 1 739 and 1 265 MB; with everything trained on 2 and 4 processes at most
4 648 and 2 781 MB, of which parameters, gradients and moments are 3 813 and 1 907 and the rest is the table of words
(262 MB), gathered beside its gradient and the sum's buffer.
By hand: it takes minutes, and on the CPU up to 10 GB. One line of JSON for each number of processes: MB that a process
holds after loading and at most (the peak of resident memory beyond what it had before), and the losses of all steps.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lib.core.processes import free_port

BLOCKS = ("embed_tokens", r"layers\.\d+")


def main() -> None:
    args = parse()
    if "RANK" in os.environ:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_base(args, Path(folder))
        for count in args.processes:
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
            command += ["--master-port", str(free_port()), "-m", "tests.bench.shard_memory", *sys.argv[1:]]
            subprocess.run([*command, "--base", folder], env={"OMP_NUM_THREADS": "1"} | os.environ, check=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("mode", choices=("lora", "full"))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="what the frozen base is held in; slow on a CPU")
    parser.add_argument("--whole", action="store_true", help="do not spread it: what the others are compared with")
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
        before = memory(accelerator.device)
        kind = torch.bfloat16 if args.bf16 else torch.float32
        loaded = weights.load_strict(network, Path(args.base) / "base.safetensors", dtype=kind, shard=BLOCKS)
        spec = {"llm": LoraSpec((r".*\.[qkvo]_proj",), 16, 32.0)} if args.mode == "lora" else {}
        full = () if args.mode == "lora" else (r"llm\..*",)
        parts = Parts({"llm": network}, spec, full, base=loaded.fingerprint, shard={"llm": BLOCKS})
        sharding.complete(parts)
        network.to(accelerator.device)
        after = memory(accelerator.device)
        adapters.attach(parts)
        losses = train(parts, accelerator, args.steps)
    found = {"rank": accelerator.process_index, "loaded_MB": after[0] - before[0]}
    found |= {"peak_MB": memory(accelerator.device)[1] - before[0], "before_MB": before[0]}
    count = sum(parameter.numel() for parameter in network.parameters())
    said = {"mode": args.mode, "processes": accelerator.num_processes, "parameters": count}
    print(json.dumps(said | found | {"losses": [round(loss, 8) for loss in losses]}), flush=True)


def train(parts: Any, accelerator: Any, steps: int) -> list[float]:
    """Steps of 4 short sequences, as the loop takes them: each process its share, gradients summed over all."""
    import torch

    from lib.core.records import Group
    from lib.network import adapters, gradients

    network, tensors = parts.modules["llm"], adapters.trainable(parts)
    network.gradient_checkpointing_enable({"use_reentrant": False})
    network.train()
    sums, chosen = gradients.GradientSum(tensors), gradients.optimiser(Group("all", ".*", 1e-4), list(tensors.values()))
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        words = torch.randint(0, 32000, (4, 6))[accelerator.process_index :: accelerator.num_processes]
        sums.clear()
        begin = network.embed_tokens(words.to(accelerator.device))
        states = network(inputs_embeds=begin, use_cache=False).last_hidden_state
        loss = (states.float() - begin.detach().float().roll(1, 1)).square().mean() / accelerator.num_processes
        loss.backward()
        sums.collect()
        sums.reduce(accelerator)
        losses.append(float(accelerator.reduce(loss.detach().double(), "sum")))
        sums.give_back()
        gradients.clip(gradients.tensors_of(chosen), 1.0)
        chosen.step()
    return losses


def memory(device: Any) -> tuple[float, float]:
    """(held, at most) of this process in MB: of the GPU, or resident without mapped files and at most with them."""
    import torch

    if device.type == "cuda":
        return torch.cuda.memory_allocated() / 1e6, torch.cuda.max_memory_allocated() / 1e6
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told["RssAnon"].split()[0]) / 1e3, int(told["VmHWM"].split()[0]) / 1e3


if __name__ == "__main__":
    main()
