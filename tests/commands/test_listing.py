"""--list explains every setting, and what it says is what the code does."""

import pytest

from lib import recipes
from lib.commands import cost, listing
from lib.core import config as configuration
from lib.recipes import RECIPES

EVERY = (*RECIPES, "lib/recipes/template")


@pytest.fixture(params=EVERY)
def recipe(request):
    return recipes.load(request.param)


def test_every_setting_has_a_meaning(recipe):
    without = [key for key, said in listing.settings(recipe).items() if len(said["meaning"]) < 4]
    assert not without, f"say beside the field what it is: {without}"


def test_every_setting_is_listed_once_with_the_default_that_counts(recipe):
    assert {key: one["default"] for key, one in listing.settings(recipe).items()} == configuration.to_dotted(
        recipe.Config()
    )


def test_a_unit_is_how_the_name_ends(recipe):
    said = listing.settings(recipe)
    assert all(one["unit"] == "px" for key, one in said.items() if key.endswith("_px"))
    assert said["session.reserve_seconds"]["unit"] == "s" and not said["train.lr"]["unit"]


def test_what_is_allowed_is_what_the_checks_refuse_by():
    said = listing.settings(recipes.load("vggt_eth3d"))
    assert said["train.precision"]["allowed"] == "auto | bf16 | fp16 | fp32"
    assert said["lora.rank"]["allowed"] == "at least 1" and said["train.warmup_ratio"]["allowed"] == "0 to 1"
    assert said["data.gap_covisibility"]["allowed"] == "from 0 to 1"  # the recipe's own check
    own = listing.settings(recipes.load("vavae_microdoppler"))
    assert own["model.critic_layers"]["allowed"] == "in [1, 8]"


def test_nothing_is_heard_outside_of_a_listing():
    with configuration.listening() as heard:
        configuration.at_least("a.b", 1, 0)
    configuration.at_least("c.d", 1, 0)
    assert heard == {"a.b": "at least 0"}


def test_a_preset_says_what_it_sets_needs_takes_and_shows(recipe):
    for name in recipe.PRESETS:
        said = listing.of_preset(recipe, name)
        composed, _ = configuration.compose(recipe, name, False, "full", {})
        plan = recipe.plan(composed)
        assert (said["trains"], said["parameters"]) == (plan.trainable, plan.parameters)
        assert said["hours"] == (cost.hours(plan.pace) if plan.pace else None)
        words = "\n".join(listing.in_words(said))
        assert "sets " in words and "takes" in words and "should show: " in words and said["shows"]
        values = configuration.to_dotted(composed)
        assert all(values[key] == value for key, value in said["sets"].items())


def test_words_filter_settings_and_presets(step, capsys):
    assert step(1, "--list", "lora", "rank", "--recipe", "hamer") == 0
    text = capsys.readouterr().out
    assert "\n    lora.rank=8" in text and "\n    train.lr=" not in text
    assert step(1, "--list", "memory", "--recipe", "hamer") == 0  # in a meaning
    assert "lora.rank=8" in capsys.readouterr().out
    assert step(1, "--list", "lora.rnk", "--recipe", "hamer") == 2
    assert "did you mean 'lora.rank'" in capsys.readouterr().err
