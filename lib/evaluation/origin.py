"""Where the numbers of a run come from: date, code, base and data with their licences. Step 5 keeps it in run.json."""

import subprocess
from datetime import UTC, datetime
from typing import Any

from lib.core.code import REPOSITORY
from lib.core.contract import Recipe

OWN = "your own"  # data in a folder of the user's: nobody here knows its licence


def of_run(recipe: Recipe, config: Any) -> dict[str, Any]:
    """{date, commit, assets: [{name, what, licence}]}, as JSON values."""
    assets = [
        {"name": asset.name, "what": described(asset), "licence": asset.licence or OWN}
        for asset in recipe.assets(config)
        if asset.required
    ]
    return {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "commit": commit(), "assets": assets}


def described(asset: Any) -> str:
    """'facebook/VGGT-1B at 860abec' for a repository of the hub; what kind of thing it is for the others."""
    if asset.kind == "hub":
        return f"{asset.source} at {asset.revision[:12]}" if asset.revision else asset.source
    return {"made": "made on the spot", "shipped": "shipped with this code"}.get(asset.kind, "brought by you")


def commit() -> str:
    """The commit of this clone, with a plus where files differ from it; "" where it is no clone or git is missing."""
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def git(*words: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def line(origin: dict[str, Any]) -> str:
    """One line for the head of the report and of the record."""
    code = f"code {origin['commit']}" if origin["commit"] else "code of no git clone"
    return f"{origin['date']} · {code}"
