"""The import picture: rooms on floors, no arrow upward, no circle, no recipe that knows another."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from lib import recipes
from lib.core import code, syntax

ROOT = code.REPOSITORY
# A room may import from rooms on lower floors and from itself. `recipes` is the loader, each package below it a room.
FLOORS = {
    "core": 1,
    "data": 2,
    "recipes": 2,
    "network": 3,
    "scenes": 4,
    "recipe": 5,
    "training": 5,
    "evaluation": 5,
    "commands": 6,
    "api": 6,
    "steps": 7,
}


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of lib, and the five steps."""
    files = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in (ROOT / "lib").rglob("*.py")}
    return {name.removesuffix(".__init__"): file for name, file in files.items()} | {
        file.stem: file for file in ROOT.glob("step*.py")
    }


def room(module: str) -> str:
    parts = module.split(".")
    if parts[0] != "lib":
        return "steps"
    return "recipe" if parts[1:2] == ["recipes"] and len(parts) > 2 else "".join(parts[1:2])


def package(module: str) -> str:
    return ".".join(module.split(".")[:3])


def arrows() -> list[tuple[str, str]]:
    """(module, what it imports) of every import of lib, without a package's face, which comes with its modules."""
    known = modules()
    return [
        (name, target)
        for name, file in known.items()
        for target in syntax.source(file).imports
        if target in known and target != name and not name.startswith(f"{target}.")
    ]


def test_no_arrow_goes_upward():
    upward = [
        (one, other)
        for one, other in arrows()
        if room(one) and room(other) and room(one) != room(other) and FLOORS[room(other)] >= FLOORS[room(one)]
    ]
    assert not upward


def test_there_is_no_circle_of_modules():
    graph: dict[str, set[str]] = {}
    known = modules()
    for one, other in arrows():
        if known[other].name != "__init__.py":
            graph.setdefault(one, set()).add(other)
    list(TopologicalSorter(graph).static_order())  # raises CycleError and names the circle


def test_no_recipe_imports_another():
    foreign = [
        (one, other)
        for one, other in arrows()
        if room(one) == room(other) == "recipe" and package(one) != package(other)
    ]
    assert not foreign


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_no_shared_room_names_a_recipe(name):
    for module, file in modules().items():
        if room(module) not in ("recipe", "recipes"):
            assert not re.search(rf"\b{name}\b", file.read_text()), file


def test_every_room_is_on_a_floor():
    assert {room(module) for module in modules()} - {""} == set(FLOORS)
