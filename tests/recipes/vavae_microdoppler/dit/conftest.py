"""The case of the stage dit with its latents, which are made once; each test has a copy."""

import shutil
from pathlib import Path

import pytest

from tests.recipes.vavae_microdoppler.dit.dit_case import Case


@pytest.fixture(scope="session")
def laid_once(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("laid")
    with pytest.MonkeyPatch.context() as patched:
        Case(root, patched).lay()
    return root


@pytest.fixture
def laid(laid_once, tmp_path, monkeypatch) -> Case:
    shutil.copytree(laid_once, tmp_path, dirs_exist_ok=True)
    made = Case(tmp_path, monkeypatch)
    made.lay()
    return made
