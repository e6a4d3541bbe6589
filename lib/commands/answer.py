"""--json: one JSON object on stdout; what a person reads goes to stderr, also from processes that a step starts."""

import contextlib
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
    answer: dict[str, Any] = {}
    if not asked():
        yield answer
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield answer
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
    print(json.dumps(answer, indent=1), flush=True)


def of_step(run: Run, step: int) -> dict[str, Any]:
    """What a step left, from its stamp; nothing where there is none."""
    stamp = read_memo(run.stamp(step))
    return {"run": run.name, "step": step} | {key: stamp[key] for key in KEPT if key in stamp}
