"""The five steps of a recipe at tiny scale, in this process, and what every recipe owes. Made to be copied.

CHANGE: add tests of what yours computes: the metric on an example worked out by hand, a broken file in its data.
"""

from pathlib import Path

import pytest

from lib import recipes
from lib.core.config import compose
from lib.core.records import Manifest
from lib.core.run import read_json
from lib.network import adapters
from tests.core.test_code import refuse_hidden_reads

ROOT = Path(__file__).resolve().parents[3]
RECIPE = str(ROOT / Path("lib/recipes/template").expanduser())


@pytest.fixture
def done(prepared, monkeypatch):
    """The five steps have run: `folder` holds the run, `tmp_path` what it was made from."""
    monkeypatch.setenv("PIPELINE_SCALE", "tiny")
    prepared("--recipe", RECIPE, "--demo", last=5)


def test_the_five_steps_score_predict_and_export(done, step, folder):
    scores = read_json(folder / "eval" / "scores.json")
    assert scores["n_samples"] and all(found["adapted"] is not None for found in scores["metrics"].values())
    assert (folder / "report.html").exists() and list((folder / "figures").glob("*.png"))
    assert step(5, "--export", "merged") == 0
    assert list((folder / "export" / "merged").iterdir())


def test_no_setting_is_read_behind_the_back_of_the_code(done, folder):
    refuse_hidden_reads(folder)


@pytest.mark.parametrize("preset", recipes.load(RECIPE).PRESETS)
def test_the_plan_counts_what_the_network_has(done, tmp_path, preset):
    recipe = recipes.load(RECIPE)
    config = compose(recipe, preset, demo=True, scale="tiny", asked={})[0]
    [*_, stage] = recipe.stages(config, Manifest([], tmp_path))
    assets = {path.name: path for path in (tmp_path / "data" / recipe.name).iterdir()}
    parts = recipe.build(config, stage, assets)
    counted = sum(tensor.numel() for module in parts.modules.values() for tensor in module.parameters())
    adapters.attach(parts)
    trained = sum(tensor.numel() for tensor in adapters.trainable(parts).values())
    assert (recipe.plan(config).parameters, recipe.plan(config).trainable) == (counted, trained)
