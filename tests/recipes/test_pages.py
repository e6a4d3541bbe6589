"""Every recipe has a page, whose numbers are the code's."""

import pytest

from lib import recipes
from lib.commands import listing


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipes_page_states_what_every_preset_costs(name):
    recipe = recipes.load(name)
    page = (recipe.folder / "README.md").read_text(encoding="utf-8")
    for line in listing.page_table(recipe):
        assert line in page
    for part in (
        "## Data and licences",
        "## What it costs",
        "## What to expect",
        "## From Python",
        "## The guide's questions",
    ):
        assert part in page


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_setting_that_a_page_names_exists(name):
    """`key=value` in code spans, as a reader would type it."""
    import re

    from lib.core import config

    recipe = recipes.load(name)
    known = config.leaves(recipe.Config)
    page = (recipe.folder / "README.md").read_text(encoding="utf-8")
    spans = re.findall(r"`([^`\n]+)`", page)
    named = [
        word.partition("=")[0] for span in spans for word in span.split() if re.match(r"[a-z]+\.[a-z_.0-9]+=", word)
    ]
    assert named and not [key for key in named if key not in known]
