"""Every command of the README runs, verbatim, in a fresh clone under PIPELINE_SCALE=tiny; every number comes from a
file.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import long
from tests.bench import table

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
DEMO, TESTS, OWN_DATA, SWEEP = (block.strip() for block in BLOCKS)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files that git knows, as they are in this working tree."""
    folder = tmp_path_factory.mktemp("clone") / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    changed = subprocess.run(
        ["git", "diff", "--name-only", "--diff-filter=d", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in changed:
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def run(command: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIPELINE_")} | {
        "PIPELINE_SCALE": "tiny"
    }
    words = ["bash", "-ec", command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_first_command_runs_the_default_recipe_from_a_bare_clone(clone):
    run(DEMO, clone)
    scores = json.loads((clone / "runs/vggt_eth3d-strategy_b-demo/eval/scores.json").read_text())
    assert scores["n_samples"] > 0
    executed = json.loads((clone / "notebooks/executed.ipynb").read_text())
    text = "".join(str(output) for cell in executed["cells"] for output in cell.get("outputs", []))
    assert "step 5 (evaluate): done" in text


def test_second_command_is_what_ci_runs(clone):
    assert (clone / ".ci" / "run").read_text().rstrip().endswith(TESTS)


def test_commands_for_own_data_run(clone):
    run(OWN_DATA, clone)
    assert (clone / "runs/mine/export/merged/model.safetensors").exists()
    run(". .venv/bin/activate\n" + SWEEP, clone)
    assert (clone / "runs/comparison.csv").exists()


def test_the_chinese_readme_has_the_same_commands_pictures_and_code():
    """Whoever reads it types what this file runs; a command that changes here must change there."""
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert re.findall(r"```bash\n(.*?)```", chinese, re.DOTALL) == BLOCKS
    for pattern in (r"^python step\S+ .*$", r"!\[.*?\]\((.*?)\)"):
        assert re.findall(pattern, chinese, re.MULTILINE) == re.findall(pattern, README, re.MULTILINE)
    spans = {span for span in re.findall(r"`([^`\n]+)`", chinese) if re.search(r"--\w|=|^step|^python", span)}
    assert spans and not sorted(
        span for span in spans if span not in README and "mirror" not in span and "消息" not in span
    )
    code = [re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in (chinese, README)]
    assert [[line.partition("#")[0] for line in block.splitlines()] for block in code[0]] == [
        [line.partition("#")[0] for line in block.splitlines()] for block in code[1]
    ]


def test_every_python_file_of_lib_is_in_the_file_tree():
    """Of every shared room; the recipes' own files have the same names everywhere."""
    named = set(re.findall(r"(\w+\.py)", README.partition("## Where things are")[2].partition("## When")[0]))
    rooms = [path for path in (ROOT / "lib").iterdir() if path.is_dir() and path.name != "recipes"]
    files = {path.name for room in rooms for path in room.glob("*.py")} - {"__init__.py"}
    assert len(files) > 40 and files <= named, sorted(files - named)


@pytest.mark.parametrize("recipe", list(long.CLAIMS))
def test_result_table_is_what_the_long_run_measured(recipe):
    results = json.loads(long.RESULTS.read_text())
    for line in long.table(recipe, results[recipe]):
        assert line in README


def test_what_a_step_costs_is_what_the_bench_measured():
    for line in table.lines(table.stored()):
        assert line in README


def test_the_page_of_spectrograms_says_what_each_way_of_training_the_generator_reached():
    page = (ROOT / "lib" / "recipes" / "vavae_microdoppler" / "README.md").read_text(encoding="utf-8")
    results = json.loads(long.RESULTS.read_text())["vavae_microdoppler"]
    assert "\n".join(long.strategies(results)) in page


def test_messages_of_the_table_exist_in_the_code():
    """Troubleshooting goes by message: each fragment between …, commas and semicolons must stand in the code."""
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in [*(ROOT / "lib").rglob("*.py"), ROOT / "step4_train.py"]
    )
    rows = re.findall(r"^\| `([^`]+)` \|", README.partition("## When something goes wrong")[2], re.MULTILINE)
    assert len(rows) >= 10
    for row in rows:
        for fragment in (part.strip() for part in re.split("[…,;]", row)):
            assert fragment in code, fragment
