"""Stand-in data belongs to the code that draws it: whoever changes that gets other data, not the old from the disk."""

from dataclasses import replace

import pytest

from lib import recipes
from lib.core import code
from lib.core.config import compose
from lib.data import assets


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize(("changed", "is_drawn_by_it"), [("stand_in.py", True), ("evaluate.py", False)])
def test_the_code_that_draws_the_stand_in_belongs_to_it(name, changed, is_drawn_by_it, monkeypatch):
    recipe = recipes.load(name)
    config, _ = compose(recipe, next(iter(recipe.PRESETS)), True, "full", {})
    made = next(asset for asset in recipe.assets(config) if asset.kind == "made")
    before, source = assets.drawn_by(recipe, made).made_from, code.source

    def edited(file):
        return replace(source(file), tree_hash="edited") if file.name == changed else source(file)

    monkeypatch.setattr(code, "source", edited)
    assert (assets.drawn_by(recipe, made).made_from != before) == is_drawn_by_it
