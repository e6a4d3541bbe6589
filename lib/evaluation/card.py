"""The model card of an exported adapter: what it is, what it is worth, what it was made from, how to load it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.core.run import Run, existing, read_json
from lib.evaluation import origin

NO_RESULT = (
    "**This adapter comes from a demo: a small network on stand-in data. Its numbers show that the pipeline works and "
    "are no result.**"
)
# Licences that the hub knows by a short name; everything else is "other", with its name and the base's page.
KNOWN_LICENCES = ("mit", "apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "llama2")


def write(run: Run, record: dict[str, Any], loading: list[str], folder: Path, source: Path) -> None:
    """README.md and the picture that it shows, into the folder of the adapter.

    source: the checkpoint that the adapter comes from. Where step 5 scored another one, the card has no numbers.
    """
    from huggingface_hub import ModelCard, ModelCardData

    scores, assets, made = existing(run.scores), read_json(run.assets), read_json(source / "state.json")
    is_scored = (made["stage"], made["step"]) == (scores["stage"], scores["step"])
    pictures = sorted((run.folder / "figures").glob("*.png"))[:1] if is_scored else []
    for picture in pictures:
        shutil.copyfile(picture, folder / picture.name)
    said = base_of(assets) | {"library_name": "peft", "tags": ["lora", scores["recipe"]]}
    if is_scored and not record["demo"]:
        said |= {"model_name": run.name, "eval_results": [result(scores)]}
    data = ModelCardData(**said)
    worth = list(told(record, scores, pictures)) if is_scored else [not_scored(run, made, scores)]
    lines = text(run, record, scores["recipe"], made["step"], assets, loading, worth)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n" + "\n".join(lines) + "\n")
    card.save(folder / "README.md")


def base_of(assets: list[dict[str, Any]]) -> dict[str, Any]:
    """base_model, and the licence that an adapter inherits from it; nothing where no base comes from the hub."""
    found = [asset for asset in assets if asset["kind"] == "hub"]
    if not found:
        return {}
    licence = found[0]["licence"] or "not stated"
    said: dict[str, Any] = {"base_model": [asset["source"] for asset in found]}
    if licence.lower() in KNOWN_LICENCES:
        return said | {"license": licence.lower()}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
    return said | {
        "license": "other",
        "license_name": name,
        "license_link": f"https://huggingface.co/{found[0]['source']}",
    }


def result(scores: dict[str, Any]) -> Any:
    """The main metric as the hub's tables read it. Of a demo there is none: it would stand there as a result."""
    from huggingface_hub import EvalResult

    main = scores["main"]
    return EvalResult(
        task_type="other",
        dataset_type=scores["recipe"],
        dataset_name=f"{scores['n_samples']} held-out samples of {scores['n_groups']} groups",
        metric_type=main["metric"],
        metric_name=f"{main['metric']} ({main['unit']})" if main["unit"] else main["metric"],
        metric_value=scores["metrics"][main["metric"]]["adapted"],
    )


def told(record: dict[str, Any], scores: dict[str, Any], pictures: list[Path]) -> Iterator[str]:
    """What step 5 says of the adapter."""
    from lib.evaluation import report

    yield from (str(report.verdict(scores, record)), "")
    yield from (f"![held-out samples: untouched base and adapted]({picture.name})\n" for picture in pictures)
    yield from table(scores)


def not_scored(run: Run, made: dict[str, Any], scores: dict[str, Any]) -> str:
    """In place of all numbers: those of another checkpoint say nothing of this one."""
    again = run.portable_command(5, "--checkpoint", f"step-{made['step']}")
    return (
        f"**This adapter is the checkpoint of step {made['step']}, which was not scored: step {scores['step']} was. "
        f"Nothing is known of what it is worth. `{again}` scores it.**"
    )


def text(
    run: Run,
    record: dict[str, Any],
    recipe: str,
    step: int,
    assets: list[dict[str, Any]],
    loading: list[str],
    worth: list[str],
) -> Iterator[str]:
    from lib.data import split

    proof = existing(run.split)
    yield from ([NO_RESULT, ""] if record["demo"] else [])
    yield from (f"# {run.name}", "", *worth)
    yield from ("", "## Load it", "", "```python", *loading, "```", "", "## Made from", "")
    yield from (f"* {words(asset)}" for asset in assets)
    yield f"* training and held-out data, split by {proof['by']}, share {split.in_words(proof['overlap'])}"
    yield f"* held out: {', '.join(proof['groups']['test'])}"
    yield f"* recipe {recipe}, preset {record['preset']}, step {step}; code {revision()}"
    yield from ("", "<details><summary>Every setting</summary>", "", "```json")
    yield from (json.dumps(record["config"], indent=1), "```", "", "</details>")


def table(scores: dict[str, Any]) -> Iterator[str]:
    """Every metric with base, adapted, trivial predictor and interval; a verdict for the main one alone."""
    from lib.evaluation.report import interval, number

    yield f"| metric | {scores['comparison']} | adapted | trivial predictor | 95 % interval of the difference |"
    yield "|---|---|---|---|---|"
    for name, one in scores["metrics"].items():
        unit = scores["units"].get(name, "")
        cells = " | ".join(number(one[column]) for column in ("base", "adapted", "trivial"))
        yield f"| {name}{f' ({unit})' if unit else ''} | {cells} | {interval(one)} |"


def words(asset: dict[str, Any]) -> str:
    at = asset["commit"] or asset["revision"]
    return f"{asset['name']}: {asset['source']} {at} ({asset['licence'] or 'no licence stated'})".replace("  ", " ")


def revision() -> str:
    """The commit of the clone that this code lies in, with a word where files were changed since."""
    try:
        return origin.git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "not from a clone"
