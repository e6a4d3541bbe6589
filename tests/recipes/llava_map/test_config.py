"""Settings that contradict one another end with the name of the key."""

import pytest

from lib import recipes
from lib.core.config import compose
from lib.core.errors import Stop
from lib.recipes import llava_map
from lib.recipes.llava_map import sources

RECIPE = recipes.load("llava_map")


@pytest.mark.parametrize("preset", list(llava_map.PRESETS))
@pytest.mark.parametrize("demo", [False, True])
def test_every_preset_composes_and_has_a_plan(preset, demo):
    config, _ = compose(RECIPE, preset, demo, "full", {})
    plan = RECIPE.plan(config)
    assert 0 < plan.trainable < plan.parameters and sum(plan.memory_bytes.values()) > 0
    assert preset in llava_map.EXPECTED


def test_demo_changes_only_what_a_demo_may():
    allowed = ("model.", "data.", "train.epochs", "train.lr", "train.micro_batch", "train.global_batch")
    assert all(key.startswith(allowed) for key in llava_map.DEMO | llava_map.TINY)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model.llm": "none"}, "model.scene_interaction"),
        ({"model.llm": "none", "model.scene_interaction": True, "train.stages": ["stage2", "stage3"]}, "train.stages"),
        ({"train.stages": ["stage4"]}, "train.stages"),
        ({"data.version": "v1.0"}, "data.version"),
        ({"model.encoder": "resnet18"}, "resnet50"),
        ({"model.decoder_width": 100}, "model.decoder_width"),
        ({"loss.orders": "v0"}, "loss.orders"),
        ({"data.geographic_share": 1.5}, "data.geographic_share"),
    ],
)
def test_impossible_settings_are_named(settings, named):
    with pytest.raises(Stop, match=named.replace(".", r"\.")):
        compose(RECIPE, "stage2", False, "full", settings)


def test_foreign_language_model_needs_a_revision():
    config, _ = compose(RECIPE, "stage2", False, "full", {"model.llm": "someone/llama-3b"})
    with pytest.raises(Stop, match="no revision pins it"):
        sources.assets(config)


def test_nothing_licensed_is_fetched():
    config, _ = compose(RECIPE, "stage2", False, "full", {})
    kinds = {asset.name: asset.kind for asset in sources.assets(config)}
    assert kinds == {"nuscenes": "licensed", "encoder": "hub", "blip2": "hub", "llm": "hub"}
