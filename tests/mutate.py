"""python -m tests.mutate: removes each guard of tests/faults.toml, and each of its calls, and runs the tests it names.

Every removal must make one of the named tests fail; tests/removals.py says what a removal is. The work is done in
temporary copies of the repository, one for each of --jobs. What was found is kept in --json after every removal, and a
second call goes on there: a removal is tried again when the file that it changes, or one of the tests' files, is
another one.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from tests.faults import Fault, by_guard, faults
from tests.removals import ROOT, Removal, removals

SECONDS = 180  # for the named tests of one removal
HEAVY = (
    "numpy",
    "torch",
    "pytest",
    "peft",
    "pandas",
    "transformers",
    "safetensors.torch",
    "accelerate",
    "PIL.Image",
    "omegaconf",
)
WANTED = ("lib", "tests", "notebooks", "*.py", "*.toml", "*.txt", "README.md", "LICENSE", ".ci", ".gitignore")


def main() -> int:
    args = parse()
    chosen = [one for one in faults() if args.only in one.guard]
    if not chosen:
        raise SystemExit(f"error: no guard of tests/faults.toml has {args.only!r} in its name")
    known = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
    work = sorted(planned(chosen), key=lambda item: item[0].name in known)  # what was never tried comes first
    if args.list:
        print("\n".join(removal.name for removal, _ in work))
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:  # once, for all the processes that are forked from here
        __import__(name)
    run_all(work, known, args)
    return report([known[removal.name] for removal, _ in work])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME", help="guards with NAME in their name")
    parser.add_argument("--jobs", type=int, default=1, help="how many removals at once")
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "mutation.json", help="what was found so far")
    parser.add_argument("--again", action="store_true", help="try what is known again")
    parser.add_argument("--list", action="store_true", help="say what would be removed")
    return parser.parse_args()


def planned(chosen: list[Fault]) -> Iterator[tuple[Removal, list[str]]]:
    for guard, tests in by_guard(chosen).items():
        for removal in removals(guard):
            yield removal, tests


def run_all(work: list[tuple[Removal, list[str]]], known: dict[str, Any], args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        copies: Queue[Path] = Queue()
        for number in range(args.jobs):
            copies.put(copied(Path(scratch) / str(number)))

        def attempt(item: tuple[Removal, list[str]]) -> None:
            removal, tests = item
            state = state_of(removal, tests)
            if known.get(removal.name, {}).get("state") == state and not args.again:
                return
            copy = copies.get()
            try:
                found = tried(copy, removal, tests) | {"name": removal.name, "tests": tests, "state": state}
            finally:
                copies.put(copy)
            known[removal.name] = found
            write(args.json, known)
            print(f"{found['outcome']:12} {found['seconds']:5.1f} s  {removal.name}", flush=True)

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(attempt, work))


def write(path: Path, known: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps(dict(known), indent=1), encoding="utf-8")
    path.with_suffix(".new").replace(path)


def state_of(removal: Removal, tests: list[str]) -> str:
    """Changes with the removal, and with the file that it changes and the tests' own files."""
    files = [removal.file, *sorted({test.partition("::")[0] for test in tests})]
    content = b"".join((ROOT / file).read_bytes() for file in files)
    return hashlib.sha256(content + repr((removal, tests)).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- one removal


def copied(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for path in sorted(path for pattern in WANTED for path in ROOT.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        else:
            shutil.copy2(path, folder)
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
    return folder


PASSED: set[tuple[str, ...]] = set()  # tests that pass as long as nothing is removed


def tried(copy: Path, removal: Removal, tests: list[str]) -> dict[str, Any]:
    """The outcome of the tests without the guard, once they pass with it; the copy is as before afterwards."""
    file, began = copy / removal.file, time.monotonic()
    if tuple(tests) not in PASSED:
        code, said = run_tests(copy, tests)
        if code:
            return {"outcome": "red before", "seconds": round(time.monotonic() - began, 1), "said": said}
        PASSED.add(tuple(tests))
    whole, status = file.read_bytes(), file.stat()
    file.write_bytes(removal.applied(whole))
    try:
        code, said = run_tests(copy, tests)
    finally:
        file.write_bytes(whole)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # its compiled form is right again
    outcome = {0: "NOT NOTICED", 1: "noticed", -1: "too slow"}.get(code, "broken")
    said = said if outcome in ("broken", "too slow") else ""
    return {"outcome": outcome, "seconds": round(time.monotonic() - began, 1), "said": said}


def run_tests(copy: Path, tests: list[str]) -> tuple[int, str]:
    """pytest's exit code (-1: out of time) and its last words, from a fork of this process without modules of ours."""
    log = copy / "said.txt"
    child = os.fork()
    if child == 0:
        os._exit(in_child(copy, tests, log))
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")[-1500:]
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1, log.read_text(errors="replace")[-1500:]


def in_child(copy: Path, tests: list[str], log: Path) -> int:
    try:
        os.setsid()
        with open(log, "w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        os.chdir(copy)
        for name in [name for name in sys.modules if name.split(".")[0] in ("lib", "tests")]:
            del sys.modules[name]
        sys.path[:] = [str(copy), *(place for place in sys.path if place not in ("", str(ROOT)))]
        import pytest

        flags = ["-x", "-q", "-n", "0", "--timeout=60", "-p", "no:cacheprovider", "--rootdir", str(copy)]
        return int(pytest.main([*flags, *tests]))
    except BaseException as error:
        print(repr(error), flush=True)
        return 3


def report(found: list[dict[str, Any]]) -> int:
    unnoticed = [one for one in found if one["outcome"] != "noticed"]
    for one in unnoticed:
        print(f"{one['outcome']}: {one['name']}\n   {' '.join(one['tests'])}")
    print(f"{len(found)} removals, {len(found) - len(unnoticed)} noticed, {len(unnoticed)} not")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
