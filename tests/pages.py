"""Runs the Python of a recipe's page as it stands there, on a run that a test has made."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(recipe: str, **filled: str | Path) -> dict[str, Any]:
    """The names that the block leaves. filled: what a reader puts for NAME (the whole of "runs/NAME"), PHOTOS, …"""
    page = (ROOT / "lib" / "recipes" / recipe / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for word, folder in filled.items():
        assert f'"{word}"' in block.replace("runs/NAME", "NAME"), word
        block = block.replace(f'"runs/{word}"', f'"{folder}"').replace(f'"{word}"', f'"{folder}"')
    names: dict[str, Any] = {}
    exec(compile(block, f"{recipe}/README.md", "exec"), names)
    return names
