"""What this pipeline costs, in one table and one JSON file:

    python -m tests.bench [--only vggt_a,hamer,…] [--turns 5] [--out bench.json] [--gpu]

a step   vggt_a, vggt_b, vggt_c, hamer, vavae_microdoppler, llava_map: ours by default, ours with nothing kept, a
         person's own loop with PEFT and Accelerate (tests/bench/loops.py), the floor
         da3_small_b: at full size, by what is kept, and part by part
choosing choosing_hamer, …: the evaluations' share of a training, of each recipe's default preset
host     milliseconds of a step beside the network, part by part, at full-size tensor counts
prepare  step 3: a photo and a depth map of 24 megapixels, a hand, a simulated spectrogram
start    step 3, --help, --plan and the first optimiser step of the tiny demo
slopes   a step by frames and rank, and the order of the samples by their number
map      ground truth against the devkit
--gpu    VGGT at full size with 8 frames of 518x392, beside the others; without CUDA it says so and stays at bench size

Everything takes turns, on one core; the medians count, least and most stand beside them.
"""

import argparse
import functools
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib import recipes
from lib.core import machine
from tests.bench import choosing, da3, demos, loop_host, map_speed, preparing, slopes, turns, vggt

FULL_TURNS = 3  # of a full-size step
MAP = argparse.Namespace(nodes=120_000, frames=500)  # as many nodes as nuScenes' largest map


def main() -> None:
    parser = argparse.ArgumentParser(description="What this pipeline costs.")
    parser.add_argument("--only", default="", metavar="a,b", help=f"of {', '.join(sections())}")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--gpu", action="store_true", help="VGGT at full size, where there is CUDA")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.gpu and not torch.cuda.is_available():
        print("--gpu: there is no CUDA here; everything runs at bench size on the CPU")
    chosen = args.only.split(",") if args.only else list(sections())
    result: dict[str, Any] = {"machine": this_machine(), "turns": args.turns, "compared": turns.clock()}
    for name in chosen:
        result[name] = sections()[name](args)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        show(name, result[name])


def sections() -> dict[str, Callable[[argparse.Namespace], dict[str, Any]]]:
    return {
        **{f"vggt_{letter}": functools.partial(of_vggt, letter) for letter in vggt.LETTERS},
        **{name: functools.partial(of_demo, name) for name in demos.RECIPES},
        "da3_small_b": lambda args: in_folder(lambda root: da3.measure(root, args.turns)),
        **{f"choosing_{name}": functools.partial(of_choosing, name) for name in recipes.RECIPES},
        "host": lambda args: loop_host.measure(args.turns),
        "prepare": lambda args: preparing.measure(args.turns),
        "start": lambda args: in_folder(demos.start_up),
        "slopes": lambda args: slopes.measure(args.turns),
        "map": lambda args: in_folder(lambda root: map_speed.ground_truth(root, MAP)),
    }


def of_vggt(letter: str, args: argparse.Namespace) -> dict[str, Any]:
    full = args.gpu and torch.cuda.is_available()
    return vggt.measure(letter, FULL_TURNS if full else args.turns, full)


def of_demo(name: str, args: argparse.Namespace) -> dict[str, Any]:
    return in_folder(lambda root: demos.measure(name, root, args.turns))


def of_choosing(name: str, args: argparse.Namespace) -> dict[str, Any]:
    return in_folder(lambda root: choosing.measure(name, root, args.turns))


def in_folder(work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        return work(Path(name))


def this_machine() -> dict[str, Any]:
    import accelerate
    import peft

    found = {"cores": machine.cores(), "processor": processor(), "python": platform.python_version()}
    found |= {"torch": torch.__version__, "peft": peft.__version__, "accelerate": accelerate.__version__}
    found["load when it began"] = os.getloadavg()[0]
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def show(name: str, found: Any, indent: str = "") -> None:
    """A line for each kind of work with its two clocks, and one for every other number."""
    if not isinstance(found, dict):
        print(f"{indent}{name:<44}{found}", flush=True)
    elif "wall_least" in found:
        spans = [f"{found[key]:10.4g} ({found[f'{key}_least']:.4g} to {found[f'{key}_most']:.4g})" for key in CLOCKS]
        print(
            f"{indent}{name:<24}{'   '.join(f'{key} {span}' for key, span in zip(CLOCKS, spans, strict=True))}",
            flush=True,
        )
    else:
        print(f"{indent}{name}", flush=True)
        for inner, value in found.items():
            show(inner, value, indent + "  ")


CLOCKS = ("wall", "cpu")

if __name__ == "__main__":
    main()
