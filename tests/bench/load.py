"""CPU seconds and memory of bookkeeping for N and 2 N generated records, and the slope log2(2 N / N) of each:

    python -m tests.bench.load [--records 100000] [--images 10000] [--only NAME]

Each size has a process of its own, so that the peak is that of its work alone. A slope of 1 is linear; 2 is quadratic.
What is timed: the split with its proof and near-duplicates, manifest.csv written and read back, the rows of an
evaluation with per_sample.csv and scores by group, the noted hashes of prepared arrays, and step 3 of a recipe on
pictures.
"""

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from lib import recipes
from lib.core import config as configuration
from lib.core.records import Record, Row
from lib.core.run import append_line, read_log
from lib.data import prepared, split
from lib.evaluation import statistics

PER_GROUP = 4
SIDE_PX = 64


def records_of(count: int) -> list[Record]:
    """A twentieth are near-duplicates of another record, three bits away."""
    draw = np.random.Generator(np.random.Philox(key=count))
    hashes = draw.integers(0, 256, (count, 32), dtype=np.uint8)
    for copy in range(0, count - 20, 20):
        hashes[copy] = hashes[copy + 19]
        hashes[copy, :3] ^= 1
    return [
        Record(f"s{i}", f"g{i // PER_GROUP}", f"asset:data/{i}", f"{i:064x}", perceptual_hash=hashes[i].tobytes().hex(),
               columns={"number": i})
        for i in range(count)
    ]  # fmt: skip


def rows_of(count: int, name: str) -> list[Row]:
    return [Row(f"s{i}", f"g{i // PER_GROUP}", {"error": (i * 7 % 13) / 13 + len(name)}) for i in range(count)]


def splitting(count: int, folder: Path) -> Callable[[], object]:
    records = records_of(count)
    return lambda: split.apply(records, split.by_share(records, "group", 0.2, 1), 1, 0.1)


def manifest(count: int, folder: Path) -> Callable[[], object]:
    records = records_of(count)

    def work() -> None:
        split.write_manifest(folder / "manifest.csv", records)
        assert len(split.read_manifest(folder / "manifest.csv", folder).records) == count

    return work


def evaluation(count: int, folder: Path) -> Callable[[], object]:
    columns = {name: rows_of(count, name) for name in ("trivial", "base", "adapted")}
    recipe: Any = SimpleNamespace(
        summarise=lambda config, stage, rows: {"error": sum(row.numbers["error"] for row in rows) / len(rows)},
        measures=lambda config, stage: {},
    )
    config = SimpleNamespace(eval=SimpleNamespace(resamples=10), train=SimpleNamespace(seed=1))

    def work() -> None:
        for index, row in enumerate(columns["base"]):
            append_line(folder / "base.jsonl", {"index": index, "step": index, "numbers": row.numbers})
        assert len(read_log(folder / "base.jsonl")) == count
        given = (recipe, config, None)
        statistics.compare(*given, columns["base"], columns["adapted"], columns["trivial"], "base")  # type: ignore
        statistics.by_group(*given, "error", columns["base"], columns["adapted"])  # type: ignore
        statistics.write_scores(folder / "per_sample.csv", columns)

    return work


def arrays(count: int, folder: Path) -> Callable[[], object]:
    (folder / "arrays").mkdir()
    for number in range(count):
        (folder / "arrays" / f"{number}.npy").write_bytes(number.to_bytes(8, "little"))

    def work() -> None:
        prepared.note(folder / "arrays", lambda: None)
        assert not prepared.clear_damaged(folder / "arrays")

    return work


def pictures(count: int, folder: Path) -> Callable[[], object]:
    """Step 3 of the spectrograms: every picture is read, resized, hashed and written; then the split."""
    recipe = recipes.load("vavae_microdoppler")
    config, _ = configuration.compose(recipe, "three_stages", True, "tiny", {"model.image_px": 32})
    draw = np.random.Generator(np.random.Philox(key=1))
    for number in range(count):
        user, recording = number % 50, number // 50 // PER_GROUP
        place = folder / "data" / f"user{user:02}"
        place.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(draw.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))
        noise.save(place / f"rec{recording:05}_w{number // 50 % PER_GROUP}.png", compress_level=1)

    def work() -> None:
        records = list(recipe.prepare(config, {"data": folder / "data"}, folder / "out"))
        assert len(records) == count
        split.apply(records, recipe.split(config, records, folder / "out"), 1, 0.1)
        recipe.summarise_data(config, records)

    return work


KINDS = {f.__name__: f for f in (splitting, manifest, evaluation, arrays, pictures)}


def measure(kind: str, count: int, answers: "SimpleQueue[tuple[float, float]]") -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        work = KINDS[kind](count, Path(folder))
        began, before = cpu_seconds(), peak_bytes()
        work()
        answers.put((cpu_seconds() - began, peak_bytes() - before))


def cpu_seconds() -> float:
    """With the helpers of this process that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_bytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--only", default="", choices=("", *KINDS))
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for kind in [args.only] if args.only else KINDS:
        found, few = [], args.images if kind == "pictures" else args.records
        for count in (few, 2 * few):
            answers = spawn.SimpleQueue()
            child = spawn.Process(target=measure, args=(kind, count, answers))
            child.start()
            child.join()
            found.append(answers.get() if child.exitcode == 0 else (math.nan, math.nan))
        (small_s, small), (large_s, large) = found
        slope = round(math.log2(large_s / small_s), 2)
        line = {"kind": kind, "n": few, "cpu_s": round(small_s, 2), "cpu_s_of_2n": round(large_s, 2), "slope": slope}
        print(json.dumps(line | {"mb": round(small / 1e6), "mb_of_2n": round(large / 1e6)}), flush=True)


if __name__ == "__main__":
    main()
