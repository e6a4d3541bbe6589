"""A package that is not what the contract says is named before anything of it runs."""

import shutil
import sys
from pathlib import Path

import pytest

from lib import recipes
from lib.core.errors import Stop
from lib.core.records import Stage
from tests.conftest import TOY


@pytest.fixture
def toy(tmp_path):
    """A copy of the toy recipe under a name of its own, to break."""
    yield shutil.copytree(TOY, tmp_path / "toy_copy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in [name for name in sys.modules if name.startswith("lib.recipes.toy_copy")]:
        del sys.modules[name]


@pytest.mark.parametrize(("file", "text", "instead", "said"), [
    ("__init__.py", "prepare split", "prepares split", "'prepares', which is not in the contract: did you mean"),
    ("__init__.py", "prepare split", "prepare", "does not say where split is"),
    ("__init__.py", "EXPECTED =", "EXPECTS =", "has no EXPECTED"),
    ("recipe.py", "def build(config, stage,", "def build(stage, config,", r"build in toy_copy/recipe.py takes \(stage"),
    ("recipe.py", "def export(", "def exports(", r"has no export: toy_copy/recipe\.py does not define it"),
])  # fmt: skip
def test_what_is_missing_misspelt_or_takes_other_parameters_is_named(toy, file, text, instead, said):
    assert recipes.load(str(toy)).name == "toy_copy"
    content = (toy / file).read_text()
    (toy / file).write_text(content.replace(text, instead, 1))
    for name in [name for name in sys.modules if name.startswith("lib.recipes.toy_copy")]:
        del sys.modules[name]
    with pytest.raises(Stop, match=said):
        recipes.load(str(toy))


def test_a_scale_is_refused_where_predictions_have_no_free_unit():
    with pytest.raises(Stop, match="predictions of this recipe have no free unit"):
        recipes.load("hamer").predict_scaled(None, Stage("adapt", 1), None, "photos", Path("out"), ["a.jpg b.jpg 2"])
