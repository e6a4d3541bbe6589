"""The template as a newcomer meets it: it runs from its folder, a copy runs under another name, mistakes are named, and
the commands of lib/recipes/README.md are right.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from lib import recipes
from lib.commands.plan import chained
from lib.core import code, syntax
from lib.core.config import compose
from lib.core.records import Manifest, Record
from lib.core.run import SCRIPTS, STEPS, Damaged, Run, existing, read_json
from lib.data import places
from lib.recipes.template import samples

pytestmark = pytest.mark.long

ROOT = code.REPOSITORY
TEMPLATE = ROOT / "lib" / "recipes" / "template"
README = (ROOT / "lib" / "recipes" / "README.md").read_text(encoding="utf-8")
COMMANDS = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))


def run(number: int, root: Path, *words: str, scale: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / SCRIPTS[number]), "--root", str(root), *words]
    return subprocess.run(command, cwd=ROOT, env=environment(scale), capture_output=True, text=True, check=False)


def environment(scale: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIPELINE_", "KAGGLE_"))}
    return kept | ({"PIPELINE_SCALE": scale} if scale else {})


def copy(folder: Path) -> Path:
    return shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__"))


# ---------------------------------------------------------------------------------------------- it runs


def test_the_demo_beats_the_base_and_the_trivial_predictor(step, folder):
    for number in STEPS:
        assert step(number, *(("--recipe", str(TEMPLATE), "--demo") if number == 1 else ())) == 0
    mae = read_json(folder / "eval" / "scores.json")["metrics"]["mae"]
    assert mae["verdict"] == "better" and mae["high"] < 0
    assert mae["adapted"] < 0.8 * mae["base"] < mae["trivial"]


def test_a_copy_under_another_name_is_found_again_by_its_run(step, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    own = copy(tmp_path / "elsewhere" / "my_denoiser")
    assert step(1, "--recipe", str(own), "--demo") == 0
    assert existing(tmp_path / "places.json") == {"recipe/my_denoiser": str(own)}
    assert step(4) == 0 and step(5) == 0
    assert read_json(folder / "eval" / "scores.json")["recipe"] == "my_denoiser"
    assert str(tmp_path) not in (folder / "run.json").read_text()


def test_two_runs_with_different_data_of_one_name_live_in_one_root(step, tmp_path, monkeypatch):
    """Turn by turn: each trains on its own pictures, and neither makes a step of the other stale."""
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    assert step(1, "--recipe", str(TEMPLATE), "--demo") == 0 and step(2) == 0
    one = shutil.copytree(tmp_path / "data" / "template" / "pictures", tmp_path / "one")
    (one / "sources.json").unlink()
    other = shutil.copytree(one, tmp_path / "other")
    shutil.rmtree(next(path for path in sorted(other.iterdir()) if path.is_dir()))
    for number in STEPS:
        for name, place in (("a", one), ("b", other)):
            words = ("--recipe", str(TEMPLATE), "--demo", "data.stand_in=false", f"data.root={place}")
            assert step(number, "--run", name, *(words if number == 1 else ())) == 0
    for name, place in (("a", one), ("b", other)):
        record = Run(tmp_path, name)
        config = compose_of(record)
        found = places.asset_dirs(record, recipes.load(str(TEMPLATE)), config, [])
        assert found["pictures"] == place
        states = chained(record, recipes.load(str(TEMPLATE)), config)
        assert {state.word for state in states.values()} == {"complete"}
    counts = [len((tmp_path / "runs" / name / "manifest.csv").read_text().splitlines()) for name in "ab"]
    assert counts[0] > counts[1]


def compose_of(run: Run):
    record = existing(run.record)
    named = record["preset"], record["demo"], record["scale"], record["overrides"]
    return compose(recipes.load(str(TEMPLATE)), *named)[0]


@pytest.mark.parametrize("inside_a_package", [False, True])
def test_the_code_of_a_copy_is_found_wherever_it_lies(tmp_path, inside_a_package):
    own = copy(tmp_path / "mine" / f"my_place_{inside_a_package}")
    if inside_a_package:
        (own.parent / "__init__.py").touch()
    recipe = recipes.load(str(own))
    made_from = {file.name for file in code.of_step(ROOT / SCRIPTS[4], recipe) if file.parent == own}
    expected = {"__init__", "config", "samples", "model", "assemble", "evaluate"}
    assert made_from == {f"{name}.py" for name in expected}


def test_what_the_stand_in_draws_follows_its_code(tmp_path):
    """Whoever changes stand_in.py gets new pictures, not the old ones from the disk."""
    own = copy(tmp_path / "my_recipe")
    words = ("--recipe", str(own), "--demo", "--run", "r")
    assert run(2, tmp_path, *words, scale="tiny").returncode == 0
    edit(own / "stand_in.py", "GRAIN = 0.05", "GRAIN = 0.2")
    assert run(2, tmp_path, *words, scale="tiny").returncode == 0
    old, new = (tmp_path / "data" / "my_recipe").glob("pictures*/camera00/noisy/000.png")  # the old ones stay beside
    assert old.read_bytes() != new.read_bytes()


def test_an_unusable_picture_is_skipped_with_its_reason(step, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    assert step(1, "--recipe", str(TEMPLATE), "--demo") == 0 and step(2) == 0
    own = shutil.copytree(tmp_path / "data" / "template" / "pictures", tmp_path / "own")
    (own / "camera00" / "noisy" / "000.png").write_bytes(b"no picture")
    (own / "camera01" / "clean" / "001.png").unlink()
    words = ("--recipe", str(TEMPLATE), "--demo", "data.stand_in=false", f"data.root={own}")
    assert step(1, *words) == 0 and step(3) == 0
    reasons = dict(re.findall(r"skipped (\S+): .*cannot be used: (.*)", capsys.readouterr().out))
    assert reasons.keys() == {"camera00-000", "camera01-001"} and reasons["camera01-001"] == "the file is missing"
    added_later(step, own, capsys)


def added_later(step, own: Path, capsys) -> None:
    """A picture that came after step 2: its content is not noted, so it is said and never taken."""
    for kind in ("noisy", "clean"):
        shutil.copy(own / "camera01" / kind / "000.png", own / "camera01" / kind / "900.png")
        (own / "camera01" / kind / ".900.png").write_bytes(b"of a Mac")
    for number in (2, 3):
        assert step(number) == 0
        told = capsys.readouterr().out
        assert f"pictures: 2 files came to {own} after step 2" in told and "step2_download.py" in told
    assert step(3, "--force") == 2 and "came to" in capsys.readouterr().err
    assert step(2, "--force") == 0 and step(3) == 0
    assert "came to" not in capsys.readouterr().out
    shutil.copy(own / "camera01" / "noisy" / "000.png", own / "camera01" / "noisy" / "002.png")
    assert step(3) == 0
    assert f"1 file in {own} gone or changed since step 2: camera01/noisy/002.png" in capsys.readouterr().out


def test_a_picture_that_is_another_than_step_3_wrote_is_refused(tmp_path, changed_since):
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    changed_since(tmp_path, "a.npy")
    with pytest.raises(Damaged, match="does not hold what was written"):
        samples.load(Manifest([], tmp_path), Record("a", "g", "", ""))


def test_a_folder_of_pictures_is_cleaned(step, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    assert step(1, "--recipe", str(TEMPLATE), "--demo") == 0 and step(4) == 0
    (tmp_path / "own").mkdir()
    Image.new("L", (40, 24), 128).save(tmp_path / "own" / "grey.png")
    assert step(5, "--predict", str(tmp_path / "own"), "--out", str(tmp_path / "out")) == 0
    with Image.open(tmp_path / "out" / "grey.png") as cleaned:
        assert cleaned.size == (40, 24) and abs(cleaned.getpixel((20, 12)) - 128) < 20
    assert step(5, "--predict", str(tmp_path / "runs"), "--out", str(tmp_path / "out")) == 2


# ---------------------------------------------------------------------------------------------- mistakes are named

MISTAKES = {  # what a copier may do -> (file, text, what stands there instead, what step 1 says)
    "a function left out": ("__init__.py", ' summarise describe"', ' summarise"', "does not say where describe is"),
    "misspelt in the table": ("__init__.py", '"predict": "predict"', '"predict": "predikt"', "did you mean 'predict'"),
    "a module misspelt": ("__init__.py", '"costs": "plan"', '"cost": "plan"', "cost.py does not define it"),
    "misspelt where defined": ("data.py", "def summarise_data(", "def summarize_data(", "has no summarise_data"),
    "a parameter missing": ("samples.py", "def collate(config: Config, stage: Stage, ", "def collate(config: Config, ",
                            "collate in my_recipe/samples.py takes (config, samples)"),
    "a parameter renamed": ("data.py", "def split(config: Config, records:", "def split(config: Config, rows:",
                            "takes (config, rows, out), and the contract says (config, records, out)"),
    "no TINY": ("__init__.py", "PRESETS, TINY, Config\n", "PRESETS, Config\n", "has no TINY"),
    "no FUNCTIONS": ("__init__.py", "FUNCTIONS = {", "FUNKTIONS = {", "has no FUNCTIONS"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_copy_is_named_in_one_sentence(tmp_path, mistake):
    name, text, instead, said = MISTAKES[mistake]
    edit(copy(tmp_path / "my_recipe") / name, text, instead)
    done = run(1, tmp_path, "--recipe", str(tmp_path / "my_recipe"), "--demo", "--run", "r")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    [sentence, *rest] = done.stderr.splitlines()
    assert sentence.startswith("error: ") and said in sentence and "my_recipe" in sentence
    assert [line.startswith("   go on with: ") for line in rest] == [True]


def edit(file: Path, text: str, instead: str) -> None:
    before = file.read_text()
    assert before.count(text) == 1, text
    file.write_text(before.replace(text, instead))


# ---------------------------------------------------------------------------------------------- the README


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the repository in which every command of the page ran, in its order and with a home of its own; and
    what was printed.
    """
    folder = tmp_path_factory.mktemp("readme")
    root, home = folder / "repository", folder / "home"
    for name in ("lib", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for file in (*ROOT.glob("step*.py"), *ROOT.glob("*.txt"), ROOT / "pyproject.toml"):
        shutil.copy(file, root)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "activate").write_text(f'export PATH="{Path(sys.executable).parent}:$PATH"\n')
    home.mkdir()
    fonts = os.environ.get("MPLCONFIGDIR", matplotlib.get_cachedir())  # listing the fonts anew takes seconds
    variables = environment("tiny") | {"HOME": str(home), "MPLCONFIGDIR": fonts}
    commands = ["bash", "-ec", COMMANDS]
    done = subprocess.run(commands, cwd=root, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root, done.stdout


def test_every_command_of_the_readme_runs(followed):
    root, printed = followed
    assert (root / "runs" / "my_report" / "report.html").exists() and list(
        (root / "runs" / "mine" / "cleaned").glob("*.png")
    )
    assert "passed" in printed


def test_a_recipe_gets_into_the_list_by_one_name_and_its_runs_stay(followed):
    root, _ = followed
    (root.parent / "home" / "my_recipe").rename(root / "lib" / "recipes" / "my_recipe")
    edit(root / "lib" / "recipes" / "__init__.py", "RECIPES = (", 'RECIPES = ("my_recipe", ')
    for words, said in (
        (["step1_setup.py", "--list"], "--preset rank4"),
        (["step5_evaluate.py", "--run", "mine"], "nothing to do"),
    ):
        done = subprocess.run(
            [sys.executable, *words], cwd=root, env=environment("tiny"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr


def test_the_frozen_features_of_the_readme_are_kept(step, tmp_path, monkeypatch):
    """The page's function in a copy whose adapters are on `gather`: every picture goes through `spread` once."""
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    own = copy(tmp_path / "elsewhere" / "my_front")
    [function] = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "FrozenFeatures(" in block
    ]
    edit(own / "assemble.py", "def build(", f"{function}\n\ndef build(")
    edit(own / "assemble.py", "import Batch, ", "import Batch, FrozenFeatures, ")
    edit(own / "assemble.py", '("spread",)', '("gather",)')
    edit(own / "assemble.py", "tuple(lora.full), ", "tuple(lora.full), frozen_features(config, network), ")
    edit(own / "assemble.py", '(batch["noisy"])', '.gather(batch["frozen_features"][:, 0])')
    edit(own / "evaluate.py", '["denoiser"](batch["noisy"])', '["denoiser"].gather(batch["frozen_features"][:, 0])')
    edit(own / "model.py", "def forward(", "def front(")
    edit(own / "model.py", "self.gather(torch.relu(self.spread(padded)))", "torch.relu(self.spread(padded))")
    edit(own / "samples.py", "return pictures | ", FROZEN_BATCH)
    assert step(1, "--recipe", str(own), "--demo", "data.augment=false", "cache.policy=tokens") == 0
    assert step(4) == 0 and step(5) == 0
    made = tmp_path / "data" / "my_front" / "pictures"
    indices = tmp_path.glob("cache/frozen-features-*/*.jsonl")
    kept = {json.loads(line)["name"] for index in indices for line in index.read_text().split("\n") if line}
    assert len(list(made.glob("*/noisy/*.png"))) == len(kept) > 0


FROZEN_BATCH = """
    if "frozen_features" in samples[0]:
        pictures["frozen_features"] = torch.stack([sample["frozen_features"] for sample in samples])
    return pictures | """


def test_the_table_of_the_contract_is_right():
    rows = re.findall(r"^\| `(\w+)`( \*)? \| (?:`(\w+)`)? ?\| (.*) \|$", README, re.MULTILINE)
    assert [name for name, *_ in rows] == list(recipes.STATED)
    assert {name for name, star, *_ in rows if star} == set(recipes.DEFAULTS)
    recipe = recipes.load(str(TEMPLATE))
    assert {name: module for name, _, module, _ in rows if module} == {
        name: kinds[""] for name, kinds in recipe.where_of.items() if kinds
    }
    calling = {step: calls(ROOT / SCRIPTS[step], recipe) for step in STEPS}
    for name, _, _, steps in rows:
        found = {step for step in STEPS if name in calling[step]}
        assert found <= set(map(int, re.findall(r"\b\d\b", steps))), name


def calls(script: Path, recipe: recipes.Loaded) -> set[str]:
    return {name for file in (script, *code.of_step(script, recipe)) for name in syntax.source(file).calls}


def test_the_table_of_files_is_complete():
    named = set(re.findall(r"^\| `(\w+\.py)` \|", README, re.MULTILINE))
    assert named == {file.name for file in TEMPLATE.glob("*.py")} | {"losses.py"}
