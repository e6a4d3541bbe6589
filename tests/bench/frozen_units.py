"""Seconds to keep and to read frozen features, against one safetensors file for each unit, turn by turn:

    python -m tests.bench.frozen_units [--megabytes 5.4] [--units 40]

Reads come from the memory of the system, as in an epoch whose features fit into it; CPU time is the process's own.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lib.network.units import Units

TURNS = 5


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def both_ways(unit: torch.Tensor, names: list[str], files: Path, kept: Units) -> dict[str, Callable[[], object]]:

    def write_files() -> None:
        for name in names:
            save_file({"output": unit}, files / name)

    def write_units() -> None:
        for name in names:
            kept.put(name, unit)

    return {
        "files_write": write_files,
        "units_write": write_units,
        "files_read": lambda: [torch.stack([load_file(files / name)["output"]]) for name in names],
        "units_read": lambda: [kept.stack([name]) for name in names],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--megabytes", type=float, default=5.4, help="of a unit; 5.4: VGGT A of 44 M, 4 frames of 252x168"
    )
    parser.add_argument("--units", type=int, default=40)
    args = parser.parse_args()
    unit = torch.rand(int(args.megabytes * 250_000))
    names = [str(number) for number in range(args.units)]
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as root:
        for turn in range(TURNS):
            files, kept = Path(root) / f"files{turn}", Units(Path(root) / f"frozen-features-{turn}", float("inf"))
            files.mkdir()
            for name, one in both_ways(unit, names, files, kept).items():
                found.setdefault(name, []).append(timed(one))
    milliseconds = {
        name: {
            "wall_ms_per_unit": round(1000 * statistics.median(one[0] for one in taken) / args.units, 3),
            "cpu_ms_per_unit": round(1000 * statistics.median(one[1] for one in taken) / args.units, 3),
        }
        for name, taken in found.items()
    }
    print(json.dumps({"megabytes": args.megabytes, "units": args.units, **milliseconds}, indent=1))


if __name__ == "__main__":
    main()
