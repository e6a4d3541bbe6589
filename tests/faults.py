"""The table of faults (tests/faults.toml): what went wrong elsewhere, what guards against it, which tests show it.

python -m tests.faults writes tests/faults.md from it. The guard is a function, the tests are their node ids; a test of
the suite looks whether both exist, and `python -m tests.mutate` whether the tests notice that the guard is gone.
"""

import functools
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TABLE, PAGE = HERE / "faults.toml", HERE / "faults.md"
ROOMS = {
    "": "Shared rooms", "hamer": "Hands (hamer)", "llava_map": "Maps (llava_map)",
    "vavae_microdoppler": "Spectrograms (vavae_microdoppler)", "scenes": "Scenes (vggt_eth3d, da3_eth3d)",
}  # fmt: skip
SCENES = ("scenes", "vggt_eth3d", "da3_eth3d")
HEAD = """# Faults, and what notices them

Each row is a fault that happened elsewhere (in a published project, in a user's report) or here before it was mended.
The guard prevents or detects it; the tests put the fault in. `python -m tests.mutate` takes out each guard, and each of
its calls, and runs these tests: every removal must be noticed. This page is made from `tests/faults.toml` by
`python -m tests.faults`.
"""


class Fault(NamedTuple):
    elsewhere: str
    ours: str
    guard: str  # lib.network.audit:refuse_moved
    tests: tuple[str, ...]  # tests/network/test_audit.py::test_a_frozen_weight_that_moves_by_one_bit_is_caught

    @property
    def room(self) -> str:
        """The recipe that the guard belongs to, or the recipes of scenes together; "" for the rooms of all."""
        parts = self.guard.partition(":")[0].split(".")
        name = parts[2] if parts[1] == "recipes" and len(parts) > 2 else parts[1]
        return "scenes" if name in SCENES else name if name in ROOMS else ""


@functools.cache
def faults() -> list[Fault]:
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["fault"]
    return [Fault(row["elsewhere"], row["ours"], row["guard"], tuple(row["tests"])) for row in rows]


def by_guard(chosen: Iterable[Fault]) -> dict[str, list[str]]:
    """Guard -> the tests of all of its rows."""
    found: dict[str, list[str]] = {}
    for one in chosen:
        known = found.setdefault(one.guard, [])
        known += [test for test in one.tests if test not in known]
    return found


def page() -> str:
    text = HEAD
    for room, title in ROOMS.items():
        rows = [one for one in faults() if one.room == room]
        text += f"\n## {title}: {len(rows)}\n\n| elsewhere | here | guard | tests |\n|---|---|---|---|\n"
        text += "".join(map(line, rows))
    return text


def line(one: Fault) -> str:
    module, _, function = one.guard.partition(":")
    tests = "<br>".join(f"`{test.removeprefix('tests/').replace('::', ' ')}`" for test in one.tests)
    return f"| {cell(one.elsewhere)} | {cell(one.ours)} | `{module}` `{function}` | {tests} |\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(faults())} rows in {PAGE.name}")
