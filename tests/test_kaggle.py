"""The kit for Kaggle, tried against imitated mounts: old and new layout, read-only, no connection."""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "notebooks" / "kaggle"
LAYOUTS = ("code-slug/repository", "datasets/owner/code-slug/repository", "notebooks/user/slug/repository")


def cell(name: str) -> str:
    cells = json.loads((KIT / "fine_tuning.ipynb").read_text(encoding="utf-8"))["cells"]
    return next("".join(one["source"]) for one in cells if one["id"] == name)


@pytest.fixture
def mount(tmp_path, monkeypatch):
    """A read-only input; the current folder is an empty /kaggle/working."""
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "input"
    for folder, _, _ in os.walk(tmp_path / "input"):
        os.chmod(folder, 0o755)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_cell_finds_attached_code_in_both_layouts(mount, layout):
    place = mount / layout
    place.mkdir(parents=True)
    (place / "step1_setup.py").touch()
    for folder, _, _ in os.walk(mount):
        os.chmod(folder, 0o555)
    names = {"repository": ""}
    exec(cell("find-code").replace("/kaggle/input", str(mount)), names)
    assert names["found"] == [place] and sys.path[0] == str(place)


def test_without_code_and_address_the_first_cell_says_what_to_attach(mount):
    with pytest.raises(AssertionError, match="attach the code"):
        exec(cell("find-code").replace("/kaggle/input", str(mount)), {"repository": ""})


def test_the_kit_asks_for_what_kaggle_has():
    """P100 is gone; the notebook that is pushed lies beside its metadata; all five steps are cells."""
    metadata = json.loads((KIT / "kernel-metadata.json").read_text(encoding="utf-8"))
    assert metadata["machine_shape"] == "NvidiaTeslaT4" and (KIT / metadata["code_file"]).is_file()
    assert all(f"notebook.step({number}, **settings)" in cell(f"step-{number}") for number in range(1, 6))
