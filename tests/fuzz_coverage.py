"""python -m tests.fuzz_coverage --reader NAME ... --minutes N: damaged files that are led by the code which they reach.

What reaches a new line of lib, or of the Python libraries that parse for it, is kept and damaged further: partly as
tests.fuzz does, partly by libFuzzer, which sees what is compared with what. Findings are those of tests.fuzz, and each
place in the code is one of them. It is for by hand, with atheris, which nothing else here needs. Compiled code (torch,
pycolmap, the decoders of Pillow, safetensors) is run but leads nothing.
"""

import argparse
import contextlib
import importlib
import inspect
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, MutableSequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lib", "PIL", "py7zr", "yaml")  # instrumented whole, when they are imported
MODULES = (  # of packages that are too large, or are imported before
    "json.decoder", "json.scanner", "csv", "pickletools", "tarfile", "zipfile", "xml.etree.ElementTree",
    "numpy.lib.format", "numpy.lib._format_impl", "numpy.lib._npyio_impl", "numpy._core._internal",
    "torch._weights_only_unpickler", "torch.serialization", "torch._utils",
)  # fmt: skip
RSS_MB = 1200  # of the whole process, in which torch has 400
FIGURES = ("minutes", "examples", "read", "refused", "findings", "slowest", "memory_mb")
Figures = MutableSequence[float]


def main() -> int:
    args = parse()
    fuzz = instrumented(args.out / "instrumented.log")
    names = [name for word in args.reader for name in fuzz.READERS if name.startswith(word)]
    if not names:
        raise SystemExit(f"error: no reader's name begins so; there are: {', '.join(fuzz.READERS)}")
    print(f"{'reader':18} minutes  examples     read  refused  findings  slowest s  memory MB  reached", flush=True)
    return max(row(fuzz, name, args) for name in names)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_coverage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time, for each reader")
    parser.add_argument("--reader", default=[""], nargs="+", metavar="NAME", help="readers whose name begins so")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "fuzz", help="where findings, logs and what leads further are put"
    )
    args = parser.parse_args()
    if not find_spec("atheris"):
        raise SystemExit(
            "error: atheris is not installed: python -m pip install atheris   (Python 3.11 to 3.13, Linux)"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def instrumented(log: Path) -> Any:
    """tests.fuzz, whose readers report which of their lines they reach. To be called before lib is imported."""
    import atheris

    with open(log, "w", encoding="utf-8") as said, contextlib.redirect_stderr(said):
        with atheris.instrument_imports(include=PACKAGES):
            fuzz = importlib.import_module("tests.fuzz")
            import_the_rest()
        for function in {id(one): one for one in functions(MODULES)}.values():
            with contextlib.suppress(RuntimeError):  # one that is instrumented already
                atheris.instrument_func(function)
    return fuzz


def import_the_rest() -> None:
    """What readers import when they are called."""
    for path in sorted((ROOT / "lib" / "scenes").glob("*.py")):
        importlib.import_module(f"lib.scenes.{path.stem}")
    for name in ("PIL.PngImagePlugin", "PIL.JpegImagePlugin", "PIL.TiffImagePlugin", "PIL.WebPImagePlugin",
                 "PIL.BmpImagePlugin", "py7zr", "yaml"):  # fmt: skip
        importlib.import_module(name)


def functions(modules: tuple[str, ...]) -> Iterator[Any]:
    """The Python functions and methods that modules define."""
    for name in modules:
        module = importlib.import_module(name)
        owners = [module, *(one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == name)]
        for owner in owners:
            yield from (one for one in vars(owner).values() if inspect.isfunction(one) and one.__module__ == name)


def row(fuzz: Any, name: str, args: argparse.Namespace) -> int:
    """Fuzzes one reader in a process of its own, because libFuzzer ends the one in which it runs."""
    context, log = multiprocessing.get_context("fork"), args.out / f"{name}.log"
    figures: Any = context.Array("d", len(FIGURES), lock=False)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        child = context.Process(target=work, args=(fuzz, name, args, Path(scratch), log, figures))
        child.start()
        child.join()
    if child.exitcode:
        fuzz.save(args.out, fuzz.Finding(name, int(figures[1]), "died", f"exit code {child.exitcode}, see {log}"))
        figures[4] += 1
    reached = re.findall(r"cov: (\d+)", log.read_text(encoding="utf-8", errors="replace"))
    minutes, examples, read, refused, findings, slowest, memory_mb = figures
    print(
        f"{name:18} {minutes:7.1f} {examples:9,.0f} {read:8,.0f} {refused:8,.0f} {findings:9.0f} {slowest:10.2f} "
        f"{memory_mb:10.0f} {(reached or ['0'])[-1]:>8}",
        flush=True,
    )
    return int(findings > 0)


def work(fuzz: Any, name: str, args: argparse.Namespace, scratch: Path, log: Path, figures: Figures) -> None:
    import atheris

    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    whole, seeds, kept = fuzz.made(name, scratch), scratch / "seeds", args.out / "kept" / name
    contents = [(whole / file).read_bytes() for file in fuzz.damageable(name, whole)]
    seeds.mkdir()
    kept.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        (seeds / str(number)).write_bytes(bytes([number]) + content)
    options = (
        f"-max_len={2 * max(map(len, contents)) + 4096}", f"-rss_limit_mb={RSS_MB}", "-timeout=0",
        f"-artifact_prefix={args.out}/{name}-died-",
    )  # fmt: skip
    fuzz.limit_memory()
    run = example(fuzz, name, whole, args, figures)
    atheris.Setup([name, *options, str(kept), str(seeds)], run, custom_mutator=mutated)
    atheris.Fuzz()


def example(fuzz: Any, name: str, whole: Path, args: Any, figures: Figures) -> Callable[[bytes], None]:
    """One execution: the first byte says which file has the others as its content."""
    reader, files, before = fuzz.READERS[name], fuzz.damageable(name, whole), fuzz.peak_mb()
    places: set[str] = set()

    def run(data: bytes) -> None:
        folder = fuzz.replaced(whole, files[data[0] % len(files) if data else 0], data[1:])
        began = time.process_time()
        kind, said, refused = fuzz.judged(reader, folder)
        figures[0] = time.process_time() / 60
        figures[1] += 1
        figures[3 if refused else 2] += 1
        figures[5] = max(figures[5], time.process_time() - began)
        figures[6] = fuzz.peak_mb() - before
        if kind and (place := place_of(kind, said)) not in places:
            places.add(place)
            figures[4] += 1
            fuzz.save(args.out, fuzz.Finding(name, int(figures[1]), kind, said), folder)
        if figures[0] > args.minutes:
            os._exit(0)  # libFuzzer knows wall time alone, which says little on a shared machine

    return run


def place_of(kind: str, said: str) -> str:
    """Where an exception was raised, or what is wrong without its numbers."""
    frames = [line for line in said.splitlines() if line.startswith("  File ")]
    return f"{kind} {frames[-1] if frames else re.sub(r'[0-9.]+', '', said)[:80]}"


def mutated(data: bytes, most_bytes: int, seed: int) -> bytes:
    import atheris
    import numpy as np

    from tests.fuzz_damage import damaged

    random = np.random.default_rng(seed)
    if random.random() < 0.5:
        with contextlib.suppress(Exception):  # they are made for whole files, and these are damaged already
            return (data[:1] + damaged(data[1:], random))[:most_bytes]
    return atheris.Mutate(data, most_bytes)


if __name__ == "__main__":
    sys.exit(main())
