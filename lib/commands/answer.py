"""--json: one JSON object on stdout; what a person reads goes to stderr, also from processes that a step starts."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from lib.core import group
from lib.core.run import Run, read_memo

KEPT = ("state", "progress", "outputs", "seconds", "next")  # of a step's stamp


def asked() -> bool:
    """Of a group of processes the one that started the others answers."""
    return "--json" in sys.argv and not group.is_child()


@contextlib.contextmanager
def given() -> Iterator[dict[str, Any]]:
    """What is put into the dict within the block is printed as JSON where --json was said, else forgotten."""
    open_streams()
    answer: dict[str, Any] = {}
    with on_stderr() if asked() else contextlib.nullcontext():
        yield answer
    try:
        if asked():
            print(json.dumps(answer, indent=1))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has what they want
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes the rest when it ends


def open_streams() -> None:
    """The three streams take any text, whatever the locale, and are open: else a file that a step opens would get their
    number, and what somebody writes to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            opened = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
        if number and isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def on_stderr() -> Iterator[None]:
    """Within the block what goes to stdout goes to stderr, also what children write."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def of_step(run: Run, step: int) -> dict[str, Any]:
    """What a step left, from its stamp; nothing where there is none."""
    stamp = read_memo(run.stamp(step))
    return {"run": run.name, "step": step} | {key: stamp[key] for key in KEPT if key in stamp}
