"""The record of an experiment: runs/<run>/record.md, with what was tried, what came out and what the user saw.

Everything but the observations is made from the run's files and written anew by step 5; the observations are the
user's, and stay.
"""

from pathlib import Path
from typing import Any

from lib.core.errors import Stop
from lib.core.run import Run, write_text

COLUMNS = ("title_with_unit", "base", "adapted", "trivial", "difference", "interval")
HEADING = "## Observations"
EMPTY = "Write here what you saw and what to try next; step 5 leaves this part as it is."


def path_of(run: Run) -> Path:
    return run.folder / "record.md"


def observations(run: Run) -> str:
    """What the user wrote below the heading; "" while there is nothing. Stop: it cannot be told from the rest."""
    path, again = path_of(run), f"then {run.command(5)}"
    if not path.exists():
        return ""
    try:
        _, heading, said = path.read_text(encoding="utf-8").partition(HEADING)
    except UnicodeDecodeError as error:
        raise Stop(f"{path}, which keeps your observations, is not UTF-8 text", f"save it as UTF-8; {again}") from error
    if not heading:
        cause = f"{path} has no line {HEADING} any more, below which your observations are kept"
        raise Stop(cause, f"write that line above them, or delete the file; {again}")
    return "" if said.strip() == EMPTY else said.strip()


def write(run: Run, page: dict[str, Any]) -> Path:
    """Make record.md from what the report shows (lib.evaluation.report.facts)."""
    said = observations(run)
    parts = [f"# {page['name']}", page["origin_line"], "## Configuration", *configuration(page)]
    parts += ["## Results", str(page["verdict"]), *results(page), "## Cost", *costs(page), HEADING, said or EMPTY]
    write_text(path_of(run), "\n\n".join(part for part in parts if part) + "\n")
    return path_of(run)


def configuration(page: dict[str, Any]) -> list[str]:
    record = page["record"]
    made = f"Recipe `{record['recipe']}`, preset `{record['preset']}`{', demo' if record['demo'] else ''}."
    changed = "\n".join(f"- `{key}` = {value}" for key, value in page["changed"].items())
    return [made, changed or "Every setting as in the preset.", "```\n" + "\n".join(page["commands"]) + "\n```"]


def results(page: dict[str, Any]) -> list[str]:
    """The named metrics as a table of Markdown."""
    head = ["| metric | base | adapted | trivial | difference | 95 % interval |", "|---|---|---|---|---|---|"]
    rows = ["| " + " | ".join(m[column] for column in COLUMNS) + " |" for m in page["front"]]
    return ["\n".join(head + rows)]


def costs(page: dict[str, Any]) -> list[str]:
    return [f"- {stage['name']}: {stage['summary']}" for stage in page["stages"]]
