"""Every metric has a name that people use and a line for those who do not know it; six to eight stand in front."""

import pytest

from lib import recipes
from lib.core.config import compose
from lib.core.records import Stage
from lib.evaluation.report import MOST_FRONT

CASES = [(name, preset) for name in recipes.RECIPES for preset in recipes.load(name).PRESETS]


@pytest.mark.parametrize("name, preset", CASES)
def test_every_measure_has_a_title_and_a_meaning_and_a_few_are_in_front(name, preset):
    recipe = recipes.load(name)
    config, _ = compose(recipe, preset, True, "full", {})
    for kind in recipe.where_of["measures"]:
        measures = recipe.measures(config, Stage("any", 1, kind=kind))
        titles = [measure.title for measure in measures.values()]
        assert all(titles) and len(set(titles)) == len(titles)
        assert all(measure.meaning.endswith(".") and "_" not in measure.title for measure in measures.values())
        front = [name for name, measure in measures.items() if measure.front]
        assert 3 <= len(front) <= MOST_FRONT and next(iter(measures)) == front[0]
