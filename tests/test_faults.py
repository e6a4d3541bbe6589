"""The table of faults is whole: every guard and every test in it exists, and the page is what the table gives."""

import ast
import functools
from collections import Counter

import pytest

from tests import removals
from tests.faults import PAGE, ROOMS, by_guard, faults, page
from tests.removals import ROOT


@functools.cache
def functions_in(file: str) -> set[str]:
    path = ROOT / file
    nodes = ast.walk(ast.parse(path.read_bytes())) if path.is_file() else ()
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_there_are_a_hundred_faults_and_every_room_has_some():
    rooms = Counter(one.room for one in faults())
    assert len(faults()) >= 100
    assert rooms.keys() == ROOMS.keys() and min(rooms.values()) >= 10, rooms
    assert all(one.elsewhere and one.ours for one in faults())


def test_every_guard_exists_and_can_be_removed():
    for guard in by_guard(faults()):
        found = removals.removals(guard)  # LookupError: there is no such function
        for removal in found:
            content = (ROOT / removal.file).read_bytes()
            compile(removal.applied(content), removal.name, "exec")
            assert removal.applied(content) != content, removal.name


def test_every_fault_names_tests_that_exist():
    for one in faults():
        assert one.tests, one.guard
        for test in one.tests:
            file, _, name = test.partition("::")
            assert name in functions_in(file), f"{one.guard} names {test}"


def test_the_page_is_what_the_table_gives():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.faults"


CODE = b'''from lib.core import errors
from lib.core.errors import nearest as near

def guard(value: int) -> int:
    """Why."""
    if value < 0:
        raise ValueError("first")
    return value

def refuse(value: int) -> None:
    raise ValueError(value)

def caller(value):
    refuse(value)
    kept = guard(value)
    return list(map(guard, [kept]))

def other(refuse):
    return refuse(1)
'''


@pytest.mark.parametrize(("name", "left_out"), [
    ("refuse", ["raise ValueError(value)", "refuse(value)\n    kept"]),
    ("guard", ['raise ValueError("first")', "guard(value)", "map(guard,"]),
])  # fmt: skip
def test_bodies_refusals_calls_and_what_is_handed_on_are_found(tmp_path, monkeypatch, name, left_out):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_bytes(CODE)
    monkeypatch.setattr(removals, "ROOT", tmp_path)
    found = removals.removals(f"lib.mine:{name}")
    assert len(found) == len(left_out)  # a parameter of the same name is no guard
    for removal, gone in zip(found, left_out, strict=True):
        changed = removal.applied(CODE).decode()
        compile(changed, removal.name, "exec")
        assert gone in CODE.decode() and gone not in changed, removal.name
