"""Compares this code with numbers that the original implementations computed: `python -m tests.golden DIR…`.

Every folder below DIR with a `config.json` is a case; its `kind` selects the code (table `MODULES`). A case holds

    config.json           kind and hyper-parameters
    inputs.safetensors    and/or inputs.json
    weights.safetensors   under the checkpoint's key names, where the case has a network
    outputs.safetensors   and/or outputs.json: what the original computed

A module of `MODULES` has three names: `KINDS` (kind -> function of a `Case` that returns {output: tensor}),
`TOLERANCES` and `WAIVED`. Prints one line per tensor, then `N passed, M failed`; exit code 1 where anything failed.
"""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lib.core.errors import Stop

# The part of `kind` before the first underscore -> where its code is.
MODULES = {
    "vggt": "tests.golden_vggt",
    "hamer": "tests.golden_hamer",
    "vavae": "tests.golden_vavae",
    "dit": "tests.golden_dit",
    "map": "tests.golden_map",
    "da3": "tests.golden_da3",
}

# What a wrong case or wrong code raises. One broken case must not hide the others; anything else is a bug of this file.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    SafetensorError,
    Stop,
)


@dataclass(frozen=True)
class Case:
    """One folder. `expected` is there so that an unordered result can be put into the stored order, and for nothing
    else.
    """

    folder: Path
    config: dict[str, Any]
    inputs: dict[str, Any]  # tensors of inputs.safetensors, values of inputs.json
    weights: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]

    @property
    def kind(self) -> str:
        return self.config.get("kind", "")


@dataclass(frozen=True)
class Distance:
    """A result that a README compares by another measure than element by element (sets of curves, ranges of right
    values).
    """

    value: float  # must be <= the `atol` of its tolerance


@dataclass(frozen=True)
class Tolerance:
    """|ours - expected| <= atol + rtol * |expected| + of_max * max|expected|, for each element. `outputs` matches whole
    names.
    """

    kind: str
    outputs: str
    rtol: float = 0.0
    atol: float = 0.0
    of_max: float = 0.0


@dataclass(frozen=True)
class Waiver:
    """A flaw of the original that we do not keep, with the sentence of the golden README that calls it one.

    `where(case, name, expected)` is a bool tensor of the elements that do not count; without it the whole output does
    not.
    """

    kind: str
    outputs: str
    reason: str
    where: Callable[[Case, str, torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Verdict:
    state: str  # PASS | FAIL | WAIVED
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.state:6} {self.name}  {self.detail}"


def main(folders: list[str]) -> int:
    if not folders:
        print("usage: python -m tests.golden DIR…", file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of sums depends on it, and a verdict must not depend on the machine
    try:
        states = [show(verdict) for path in folders for verdict in run(Path(path))]
    finally:
        torch.set_num_threads(threads)
    print(f"{states.count('PASS')} passed, {states.count('FAIL')} failed")
    return 1 if "FAIL" in states else 0


def show(verdict: "Verdict") -> str:
    print(verdict, flush=True)
    return verdict.state


def run(root: Path) -> Iterable[Verdict]:
    """The verdicts of every case at or below `root`. A folder without any case is a failure: a wrong path must not
    pass.
    """
    configs = sorted(root.rglob("config.json"))
    if not configs:
        yield Verdict("FAIL", str(root), "no case folder here")
    for config in configs:
        yield from run_case(config.parent)


def run_case(folder: Path) -> Iterable[Verdict]:
    """The code is run once for a case; then each stored output gets its verdict."""
    try:
        case = read(folder)
        module = module_of(case.kind)
        computed = module.KINDS[case.kind](case)
    except FAULTS as error:
        yield Verdict("FAIL", folder.name, f"{type(error).__name__}: {error}")
        return
    for name, expected in sorted(case.expected.items()):
        yield judge(case, name, computed.get(name), expected, module)
    if not case.expected:
        yield Verdict("FAIL", folder.name, "the case has no outputs")


def module_of(kind: str):
    """The module that knows `kind`; raises LookupError for an unknown one."""
    family = kind.partition("_")[0]
    module = importlib.import_module(MODULES[family]) if family in MODULES else None
    if module is None or kind not in module.KINDS:
        raise LookupError(f"unknown kind {kind!r}")
    return module


def read(folder: Path) -> Case:
    inputs = tensors(folder / "inputs.safetensors") | read_json(folder / "inputs.json")
    expected = tensors(folder / "outputs.safetensors") | dict(leaves(read_json(folder / "outputs.json")))
    return Case(folder, read_json(folder / "config.json"), inputs, tensors(folder / "weights.safetensors"), expected)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.exists() else {}


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def leaves(tree: Any, path: str = "") -> Iterable[tuple[str, torch.Tensor]]:
    """The numbers of a JSON tree by dotted path (lists count from 0); null is NaN, text is a label and left out."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif not isinstance(tree, str):
        yield path, torch.tensor(float("nan") if tree is None else float(tree), dtype=torch.float64)


def judge(case: Case, name: str, ours: Any, expected: torch.Tensor, module) -> Verdict:
    """Waived elements are taken out first; an output that is neither computed nor waived is a failure."""
    label = f"{case.folder.name}/{name}"
    waiver = find(module.WAIVED, case.kind, name)
    if waiver and waiver.where is None:
        return Verdict("WAIVED", label, waiver.reason)
    tolerance = find(module.TOLERANCES, case.kind, name)
    if ours is None or tolerance is None:
        return Verdict("FAIL", label, "not computed" if ours is None else "no tolerance for this output")
    if isinstance(ours, Distance):
        state = "PASS" if ours.value <= tolerance.atol else "FAIL"
        return Verdict(state, label, f"distance {ours.value:.1e}, allowed {tolerance.atol:.1e}")
    ours = torch.as_tensor(ours)
    if ours.shape != expected.shape:
        return Verdict("FAIL", label, f"shape {tuple(ours.shape)}, expected {tuple(expected.shape)}")
    counts = torch.ones(expected.shape, dtype=torch.bool)
    if waiver:
        counts &= ~waiver.where(case, name, expected)
        if not counts.any():
            return Verdict("WAIVED", label, waiver.reason)
    note = "" if counts.all() else f"  WAIVED {int((~counts).sum())} of {counts.numel()} elements: {waiver.reason}"
    worst, state = compare(ours, expected, counts, tolerance)
    return Verdict(state, label, f"error/allowed {worst:.2g}{note}")


def compare(
    ours: torch.Tensor, expected: torch.Tensor, counts: torch.Tensor, tolerance: Tolerance
) -> tuple[float, str]:
    """The largest ratio of error to allowed error among the elements that count; NaN and infinities agree exactly."""
    ours, expected = ours.detach().double()[counts], expected.double()[counts]
    finite = expected.isfinite()
    if not torch.equal(ours[~finite].nan_to_num(), expected[~finite].nan_to_num()) or not ours[finite].isfinite().all():
        return float("inf"), "FAIL"
    if not torch.equal(ours.isnan(), expected.isnan()):
        return float("inf"), "FAIL"
    ours, expected = ours[finite], expected[finite]
    if not expected.numel():
        return 0.0, "PASS"
    error = (ours - expected).abs()
    allowed = tolerance.atol + tolerance.rtol * expected.abs() + tolerance.of_max * expected.abs().max()
    ratio = torch.where(error > 0, error / allowed, 0.0)  # allowed may be 0: then only equality passes
    return ratio.max().item(), "PASS" if (error <= allowed).all() else "FAIL"


def find(rows: Iterable[Tolerance | Waiver], kind: str, name: str) -> Any:
    """The first row for an output; rows of a kind go from special to general."""
    return next((row for row in rows if row.kind == kind and re.fullmatch(row.outputs, name)), None)


if __name__ == "__main__":
    from tests.golden import (
        main as imported_main,
    )  # the kinds import `tests.golden`, and their classes must be these classes

    sys.exit(imported_main(sys.argv[1:]))
