"""The gates of the repository: one format, one set of lint rules, honest types (pyproject.toml explains them)."""

import subprocess
import sys

import pytest

from lib.core.code import REPOSITORY

pytestmark = pytest.mark.long


@pytest.mark.parametrize("gate", ["ruff check", "ruff format --check", "mypy"])
def test_the_whole_repository_passes(gate):
    command = [sys.executable, "-m", *gate.split()]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{gate}\n{ended.stdout}{ended.stderr}"
