"""SIGKILL at random moments of the five steps of the VGGT demo, on one process and on two, and of papermill:

    python -m tests.kills [--kills 100] [--seed 1] [--processes 1 2] [--papermill 2]

Steps are real processes, started anew after each kill, until the run is finished. It must then equal, bit for bit, the
run that nothing interrupted; and of all that was killed no process, lock or temporary may be left.
"""

import argparse
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from lib.core.run import SCRIPTS
from lib.core.session import take_lock
from tests.equal import equal_files

ROOT = Path(__file__).resolve().parent.parent
NAME = "vggt_eth3d-strategy_b-demo"
MARK = "PIPELINE_TESTED_BY"  # in the environment of everything that a step starts
LONGEST_S, ENDS_WITHIN_S = 900, 60  # of a step; of what a killed process leaves running
SETTINGS = ("train.checkpoint_minutes=0", "train.epochs=1", "train.micro_batch=1")  # a sample for each of two processes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="of steps, over all numbers of processes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--papermill", type=int, default=2, help="further kills, of papermill")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        for number in args.processes:
            killed_steps(Path(folder) / str(number), number, args.kills // len(args.processes), draw)
        if args.papermill:
            killed_notebook(Path(folder) / "notebook", args.papermill, draw)
    return 0


def killed_steps(folder: Path, processes: int, kills: int, draw: random.Random) -> None:
    """A run that nothing interrupts says how long each step takes; then as many runs as the kills need."""
    whole, seconds = folder / "whole", {}
    for step in SCRIPTS:
        began = time.monotonic()
        assert finish(step_of(whole, step, processes)) == 0
        seconds[step] = time.monotonic() - began
    wanted, done, rounds = equal_files(whole / "runs" / NAME), 0, 0
    shutil.rmtree(whole)
    while done < kills:
        root, rounds = folder / f"killed{rounds}", rounds + 1
        for step in SCRIPTS:
            for _ in range(min(kills - done, 8 if step == 4 else 2)):
                done += kill_within(step_of(root, step, processes), seconds[step] * draw.random())
            assert finish(step_of(root, step, processes)) == 0, step
        check(root, wanted)
    print(f"{processes} processes: {done} kills in {rounds} runs, all equal to the whole one", flush=True)


def killed_notebook(folder: Path, kills: int, draw: random.Random) -> None:
    whole, killed = folder / "whole", folder / "killed"
    began = time.monotonic()
    assert finish(papermill(whole)) == 0
    seconds, done = time.monotonic() - began, 0
    for _ in range(kills):
        done += kill_within(papermill(killed), seconds * draw.uniform(0.2, 0.9))
    assert finish(papermill(killed)) == 0
    check(killed, equal_files(whole / "runs" / NAME))
    print(f"papermill: {done} kills, equal to the whole one", flush=True)


# ---------------------------------------------------------------------------------------------- processes


def step_of(root: Path, step: int, processes: int) -> "subprocess.Popen[bytes]":
    words = ["--demo", *SETTINGS] if step == 1 else ["--run", NAME]
    words += ["--processes", str(processes)] if processes > 1 and step > 3 else []
    return started([sys.executable, str(ROOT / SCRIPTS[step]), "--root", str(root), *words], root)


def papermill(root: Path) -> "subprocess.Popen[bytes]":
    notebook = str(ROOT / "notebooks" / "pipeline.ipynb")
    words = [notebook, str(root / "executed.ipynb"), "--cwd", str(ROOT), "-r", "root", str(root)]
    return started([sys.executable, "-m", "papermill", *words], root)


def started(command: list[str], root: Path) -> "subprocess.Popen[bytes]":
    root.mkdir(parents=True, exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIPELINE_")}
    environment = kept | {"PIPELINE_SCALE": "tiny", "OMP_NUM_THREADS": "1", MARK: uuid.uuid4().hex}
    log = open(root / "output.txt", "ab")  # noqa: SIM115 - the child's
    child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
    child.mark, child.log = environment[MARK], root / "output.txt"  # type: ignore[attr-defined]
    log.close()
    return child


def finish(child: "subprocess.Popen[bytes]") -> int:
    code = child.wait(LONGEST_S)
    if code:
        print(child.log.read_text(errors="replace")[-2000:])  # type: ignore[attr-defined]
    return code


def kill_within(child: "subprocess.Popen[bytes]", seconds: float) -> int:
    """1 where it was killed, 0 where it ended before. What it had started ends by itself."""
    try:
        assert child.wait(seconds) == 0, child.log.read_text(errors="replace")[-2000:]  # type: ignore[attr-defined]
        return 0
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait()
    until = time.monotonic() + ENDS_WITHIN_S
    while left := alive(child.mark):  # type: ignore[attr-defined]
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.2)
    return 1


def alive(mark: str) -> list[str]:
    """The command lines of the processes that have a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return found


def check(root: Path, wanted: dict[str, bytes]) -> None:
    found = equal_files(root / "runs" / NAME)
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    assert not differing, differing
    left = [str(path) for path in root.rglob(".*") if path.suffix in (".tmp", ".lock") or path.name == ".lock"]
    held = take_lock(root / "runs" / NAME / ".lock", fcntl.LOCK_EX)
    assert held is not None and set(left) <= {str(root / "runs" / NAME / ".lock")}, left
    os.close(held)
    shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
