"""python -m tests.fuzz --minutes N [--reader NAME]: damaged files through every reader of foreign files.

Each example is a whole file, damaged as its seed says (tests/fuzz_damage.py), and read by the project's own reader
(tests/fuzz_readers.py). It must give a value that can be true, or end in one sentence, within SECONDS and GIGABYTES.
Seconds are of processor time, because others work on the same machine.
Anything else is a finding: its files and its traceback are put into --out, and the same seed makes it again.
`python -m tests.fuzz_coverage` goes where the reached code leads, for those who have atheris.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.core.errors import LONGEST
from tests.fuzz_damage import damaged
from tests.fuzz_reader import ENDS, Reader
from tests.fuzz_readers import READERS

ROOT = Path(__file__).resolve().parent.parent
SECONDS, GIGABYTES = 2.0, 1.0
FEWEST = 2000  # examples of each reader in a long run


class Finding(NamedTuple):
    reader: str
    seed: int
    kind: str  # the exception's name, or slow, large, wrong
    said: str


class TooSlow(BaseException):
    """No reader's own handler catches it."""


def main() -> int:
    args = parse()
    names = [name for name in READERS if name.startswith(args.reader)]
    if not names:
        raise SystemExit(f"error: no reader's name begins with {args.reader!r}; there are: {', '.join(READERS)}")
    failed = False
    print(f"{'reader':18} examples  read  refused  findings  slowest s  memory MB")
    for name in names:
        figures = in_child(name, args)
        failed |= figures["findings"] > 0
        print(
            f"{name:18} {figures['examples']:8,} {figures['read']:5,} {figures['refused']:8,} "
            f"{figures['findings']:9} {figures['slowest']:10.2f} {figures['memory_mb']:10.0f}",
            flush=True,
        )
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for all readers together")
    parser.add_argument("--examples", type=int, default=FEWEST, help="of each reader, at least")
    parser.add_argument("--reader", default="", metavar="NAME", help="readers whose name begins so")
    parser.add_argument("--seed", type=int, default=0, help="of the first example")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fuzz", help="where findings are put")
    return parser.parse_args()


def in_child(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A reader of its own process: its memory is its own, and one that dies is a finding."""
    context = multiprocessing.get_context("fork")
    seed, (here, there) = context.Value("q", args.seed), context.Pipe()
    share_s = 60 * args.minutes / sum(one.startswith(args.reader) for one in READERS)
    child = context.Process(target=work, args=(name, share_s, args.examples, seed, args.out, there))
    child.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        child.join()
        save(args.out, Finding(name, seed.value, "died", f"exit code {child.exitcode}"))
        nothing = dict.fromkeys(("read", "refused", "slowest", "memory_mb"), 0)
        return nothing | {"examples": seed.value - args.seed, "findings": 1}
    finally:
        child.join()


def work(name: str, share_s: float, fewest: int, seed: Any, out: Path, answer: Any) -> None:
    limit_memory()
    figures = dict.fromkeys(("examples", "read", "refused", "findings", "slowest", "memory_mb"), 0.0)
    began, before = time.monotonic(), peak_mb()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        whole = made(name, Path(scratch))
        while figures["examples"] < fewest or time.monotonic() - began < share_s:
            started = time.process_time()
            finding, refused = example(name, seed.value, whole)
            figures["examples"] += 1
            figures["slowest"] = max(figures["slowest"], time.process_time() - started)
            figures["refused" if refused else "read"] += 1
            if finding:
                figures["findings"] += 1
                save(out, finding, prepared(name, finding.seed, whole))
            seed.value += 1
    figures["memory_mb"] = peak_mb() - before
    answer.send({key: value if key in ("slowest", "memory_mb") else int(value) for key, value in figures.items()})


def limit_memory() -> None:
    """What is asked for beyond 2 GB more than now fails at once, and with MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------------------------- one example


def made(name: str, scratch: Path) -> Path:
    """A folder with the reader's whole files, which must be read without a word."""
    folder = scratch / "whole"
    folder.mkdir(parents=True)
    READERS[name].make(folder)
    value, said = outcome(READERS[name], copied(folder))
    if said or READERS[name].wrong(value):
        raise AssertionError(f"the whole files of {name} cannot be read: {said or READERS[name].wrong(value)}")
    return folder


def copied(whole: Path) -> Path:
    folder = whole.with_name("example")
    shutil.rmtree(folder, ignore_errors=True)
    for path in sorted(whole.rglob("*")):  # links: only the damaged file is written
        target = folder / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.link(path, target)
    return folder


def example(name: str, seed: int, whole: Path) -> tuple[Finding | None, bool]:
    """(what is wrong, whether the reader refused) of one seed."""
    kind, said, refused = judged(READERS[name], prepared(name, seed, whole))
    return (Finding(name, seed, kind, said) if kind else None), refused


def judged(reader: Reader, folder: Path) -> tuple[str, str, bool]:
    """(kind of the finding or "", what is said of it, whether the reader refused) of damaged files."""
    began, before = time.process_time(), peak_mb()
    try:
        value, said = outcome(reader, folder)
        problem = "" if said else reader.wrong(value)
    except BaseException as error:  # whatever the reader lets through is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        return type(error).__name__, traceback.format_exc(), False
    if (seconds := time.process_time() - began) > SECONDS:
        return "slow", f"{seconds:.1f} s: {said}", bool(said)
    if peak_mb() - before > 1024 * GIGABYTES:
        return "large", f"{peak_mb() - before:.0f} MB: {said}", bool(said)
    if said and (len(said) > LONGEST + 2 or "Traceback" in said):
        return "no sentence", said, True
    return ("wrong" if problem else ""), problem, bool(said)


def prepared(name: str, seed: int, whole: Path) -> Path:
    """The example's folder: one of its files is damaged."""
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    files = damageable(name, whole)
    file = files[int(random.integers(len(files)))]
    return replaced(whole, file, damaged((whole / file).read_bytes(), random))


def damageable(name: str, whole: Path) -> list[Path]:
    """The files that are damaged, relative to the folder."""
    return [path.relative_to(whole) for path in sorted(whole.glob(READERS[name].damaged)) if path.is_file()]


def replaced(whole: Path, file: Path, content: bytes) -> Path:
    """The example's folder, in which one file has another content."""
    folder = copied(whole)
    (folder / file).unlink()  # a link: the whole file stays as it is
    (folder / file).write_bytes(content)
    return folder


def outcome(reader: Reader, folder: Path) -> tuple[Any, str]:
    """(the value, "") or (None, the sentence)."""
    with quiet(), deadline(10 * SECONDS):
        try:
            return reader.read(folder), ""
        except ENDS as end:
            return None, str(end) or "nothing is said"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise TooSlow(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def save(out: Path, finding: Finding, files: Path | None = None) -> None:
    folder = out / f"{finding.reader}-{finding.kind.replace(' ', '_')}-{finding.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "finding.json").write_text(json.dumps(finding._asdict(), indent=1), encoding="utf-8")
    if files:
        shutil.copytree(files, folder / "files", dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
