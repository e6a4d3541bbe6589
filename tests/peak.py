"""What the full-size checks measure of their own process (tests/*/fullsize.py)."""

import json
import time
from pathlib import Path

from lib.core import footprint
from lib.core.records import Plan


def peak_gb() -> float:
    """VmHWM: the most memory that this process has had, mapped pages included."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * 1024 / 1e9, 2)


def seconds_since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def planned_gb(plan: Plan) -> dict[str, float]:
    """A recipe's estimate by part, and its sum."""
    assert plan.footprint is not None, "this recipe plans no memory"
    found = {name: round(size / 1e9, 2) for name, size in footprint.parts(plan.footprint).items()}
    return found | {"sum": round(sum(found.values()), 2)}


def report(name: str, said: dict, limit_gb: float) -> None:
    print(name, json.dumps(said, indent=1), flush=True)
    if said["peak_gb"] > limit_gb:
        raise SystemExit(f"above the limit of {limit_gb} GB")
