"""The audit of what is trained, for people: blocks as ranges in a dozen lines, and every layer in a file."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lib.core.run import read_record
from lib.core.tables import COUNT, NUMBER, TEXT, read_table, write_table

LAYERS = {"layer": TEXT, "parameters": COUNT, "share": NUMBER}  # of train/<stage>/layers.csv; share of all parameters
MOST_LINES = 12
NUMBERS = re.compile(r"\d+")


def write(stage: Path, rows: list[tuple[str, int, float]]) -> Path:
    """train/<stage>/layers.csv: every trained layer, with its parameters and their share."""
    import pandas as pd

    write_table(stage / "layers.csv", pd.DataFrame(rows, columns=list(LAYERS)).astype(LAYERS))
    return stage / "layers.csv"


def read(stage: Path) -> dict[str, tuple[int, float]]:
    """{layer: (parameters, share)} as done.json of a finished stage says, else what `write` left; empty where the stage
    has no such file. The table is for people, and has no hash of its own.
    """
    if rows := (read_record(stage / "done.json") or {}).get("layers"):
        return {name: (count, share) for name, count, share in rows}
    if not (stage / "layers.csv").exists():
        return {}
    table = read_table(stage / "layers.csv", LAYERS)
    return {row.layer: (int(row.parameters), float(row.share)) for row in table.itertuples()}


def summary(stage: Path) -> list[tuple[str, int, int, float]]:
    """(range of layers, how many, parameters, share) of what `write` left, largest first; at most MOST_LINES.

    What does not fit is one last line. [] where the stage has no such file.
    """
    of_layer, lines = read(stage), []
    for name, members in ranges(of_layer).items():
        counts, shares = zip(*(of_layer[member] for member in members), strict=True)
        lines.append((name, len(members), sum(counts), sum(shares)))
    lines.sort(key=lambda line: -line[2])
    if len(lines) <= MOST_LINES:
        return lines
    first, rest = lines[: MOST_LINES - 1], lines[MOST_LINES - 1 :]
    _, counts, numbers, shares = zip(*rest, strict=True)
    return [*first, (f"and {len(rest)} more kinds", sum(counts), sum(numbers), sum(shares))]


def text(stage: Path) -> str:
    """The same for the console."""
    lines = [
        f"  {name:<58} {'× ' + str(count) if count > 1 else '':>6} {parameters:>12,}  {100 * share:.3f} %"
        for name, count, parameters, share in summary(stage)
    ]
    return "\n".join(lines)


def ranges(names: Iterable[str]) -> dict[str, list[str]]:
    """{"blocks.12-23.qkv": its layers}: names that differ in numbers alone and hold every combination of them."""
    families: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    of_numbers: dict[tuple[str, tuple[int, ...]], str] = {}
    for name in names:
        pattern, numbers = NUMBERS.sub("#", name), tuple(map(int, NUMBERS.findall(name)))
        families[pattern].append(numbers)
        of_numbers[pattern, numbers] = name
    found = {}
    for pattern, members in families.items():
        for box in boxes(members):
            label = pattern
            for position in range(len(box[0])):
                label = label.replace("#", spans({numbers[position] for numbers in box}), 1)
            found[label] = [of_numbers[pattern, numbers] for numbers in box]
    return found


def boxes(members: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Sets of numbers that are each a full product; what is none is split where it has the fewest values."""
    values = [{numbers[i] for numbers in members} for i in range(len(members[0]))]
    size = 1
    for some in values:
        size *= len(some)
    if size == len(members):
        return [members]
    at = min((i for i, some in enumerate(values) if len(some) > 1), key=lambda i: len(values[i]))
    return [box for value in sorted(values[at]) for box in boxes([one for one in members if one[at] == value])]


def spans(numbers: set[int]) -> str:
    """{1, 2, 3, 7} -> '1-3,7'"""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found)
