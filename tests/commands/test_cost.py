"""What --plan says of cards, machines, bytes and hours, for every recipe."""

import json

import pytest

from lib import recipes
from lib.commands import cost
from lib.core import machine
from lib.core.config import compose
from lib.core.footprint import USABLE, card_bytes
from lib.core.records import Asset, Footprint, Pace
from tests.core.test_machine import WHEEL

PRESETS = [(name, preset) for name in recipes.RECIPES for preset in recipes.load(name).PRESETS]
UNKNOWN = {"model.llm": "Qwen/Qwen2.5-0.5B", "model.llm_revision": "0" * 40}


def composed(name: str, preset: str, demo: bool = False, **settings):
    recipe = recipes.load(name)
    return recipe, compose(recipe, preset, demo, "full", settings)[0]


def costs(name: str, preset: str, demo: bool = False, **settings):
    recipe, config = composed(name, preset, demo, **settings)
    return cost.of_run(recipe, config, recipe.plan(config))


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_what_must_be_fetched_is_said_for_every_preset(name, preset):
    found = costs(name, preset)
    assert found["needs"] and found["bytes"]["download"] + len(found["bytes"]["unknown"]) > 0
    recipe, config = composed(name, preset)
    for asset in recipe.assets(config):
        assert asset.kind in ("made", "shipped") or any(need.startswith(asset.name) for need in found["needs"])
    assert json.loads(json.dumps(found))["cards"]["whole"].keys() == {"1", "2", "4", "8"}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_demo_fetches_nothing_and_fits_the_smallest_machine(name):
    found = costs(name, next(iter(recipes.load(name).PRESETS)), demo=True)
    assert found["bytes"]["download"] == 0 and not found["bytes"]["unknown"]
    assert found["machines"] == {"2 x T4 16 GB": "fits"}


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_what_is_said_of_a_machine_is_true(name, preset):
    """The settings that a machine is said to need are applied, and the closed form is asked again."""
    recipe, config = composed(name, preset)
    for place, words in cost.machines(recipe, config).items():
        one = next(machine for machine in cost.MACHINES if machine.name == place)
        settings = dict(word.split("=") for word in words.split() if "=" in word)
        precision = "fp16" if one.capability[0] < 8 else "bf16"
        precision = precision if precision in recipe.PRECISIONS else "fp32"
        read = {key: json.loads(value) for key, value in settings.items()}
        made = composed(name, preset, **read, **{"train.precision": precision})[1]
        footprint, cards = recipe.plan(made).footprint, int(words.split()[0]) if words[0].isdigit() else one.cards
        fits = card_bytes(footprint, cards, sharded="sharded" in words) <= USABLE * one.card_bytes
        assert fits == ("does not fit" not in words), (place, words)


def test_the_settings_come_in_the_order_of_the_harm_they_do():
    """Recomputed activations, fewer frames, a smaller micro-batch, four bits, further cards."""
    recipe, config = composed("vggt_eth3d", "strategy_c", **{"data.frames": [64, 64], "train.precision": "bf16"})
    tried = [list(settings) for _, settings in cost.lighter(recipe, config)]
    assert tried == [[], ["train.gradient_checkpointing"], ["train.gradient_checkpointing", "data.frames"]]
    recipe, config = composed("llava_map", "stage2", **{"train.global_batch": 4, "train.micro_batch": 4})
    assert list(list(cost.lighter(recipe, config))[-1][1].items()) == [("train.micro_batch", 1), ("model.llm_bits", 4)]


def test_no_machine_has_a_card_for_which_current_wheels_have_no_kernels():
    devices = [{"name": one.name, "capability": list(one.capability)} for one in cost.MACHINES]
    assert all(machine.in_wheel(device["capability"], WHEEL) for device in devices)


def test_machines_end_with_the_first_that_needs_nothing():
    found = costs("vggt_eth3d", "strategy_c")["machines"]
    assert list(found) == ["2 x T4 16 GB", "a card of 24 GB", "a card of 40 GB"]
    assert found["a card of 24 GB"] == "fits with train.gradient_checkpointing=true"
    assert found["a card of 40 GB"] == "fits"
    assert costs("llava_map", "stage3_full")["machines"]["a card of 80 GB"] == "2 such cards, sharded"


def test_a_machine_that_a_recipe_cannot_use_is_named(monkeypatch):
    recipe, config = composed("hamer", "rank8", **{"train.precision": "bf16"})
    found = cost.machines(recipe, config)
    assert "does not do: train.precision=bf16 is not possible: 2 x T4" in found["2 x T4 16 GB"]
    assert "does not do" in found["2 x T4 16 GB"] and found["a card of 24 GB"] == "fits"


def test_what_is_not_known_yet_is_no_number(capsys):
    found = costs("llava_map", "stage2", **UNKNOWN)
    assert found["cards"] is found["machines"] is found["hours"] is found["bytes"]["checkpoints"] is None
    text = "\n".join(cost.lines(found))
    assert "memory, machines: not known yet" in text and "checkpoints of not known yet" in text
    assert "Qwen/Qwen2.5-0.5B takes is not known yet" in text


def test_an_asset_that_nothing_pins_is_said_and_not_counted():
    found = costs("llava_map", "stage2", **{"model.llm": "Qwen/Qwen2.5-0.5B"})
    assert found["bytes"]["download"] is None
    assert any("no revision pins it" in need for need in found["needs"])
    assert "fetches not known yet" in "\n".join(cost.lines(found))


def test_hours_are_samples_over_pace_and_say_whose_pace():
    found = cost.hours(Pace(2.0, "H100", "a paper", epochs=3, samples=7200))
    assert found["hours"] == 3.0 and found["of"] == "7,200 samples x 3 epochs" and found["source"] == "a paper"
    assert cost.hours(Pace(2.0, "H100", "a paper", epochs=3))["of"] == "each 1 000 samples"
    text = "\n".join(cost.lines(costs("llava_map", "stage2")))
    assert "about 104 hours on one RTX 4090 for 28,130 samples x 12 epochs (an estimate: " in text


def test_an_epoch_of_the_published_vggt_is_interpolated():
    recipe, config = composed("vggt_eth3d", "strategy_b", **{"data.frames": [2, 4]})
    pace = recipe.plan(config).pace
    assert 1 / pace.samples_per_second == pytest.approx(3 * (0.06 + 3 * 0.03))
    config.train.gradient_checkpointing = True
    assert 1 / recipe.plan(config).pace.samples_per_second == pytest.approx(4 * (0.06 + 3 * 0.03))
    config.data.frames = [300, 300]
    assert recipe.plan(config).pace is None


def test_a_network_without_blocks_has_no_sharded_row():
    cards = cost.per_card(Footprint(10, 1, {}))
    assert cards["sharded"] == {} and len(list(cost.rows(cards))) == 1


def test_a_folder_of_ones_own_is_named_where_it_lies(tmp_path):
    asset = Asset("data", "folder", str(tmp_path), how_to_get="set data.root")
    assert cost.sentence(asset) == f"data: {tmp_path}, used in place"
    assert cost.sentence(Asset("data", "folder", how_to_get="set data.root")) == "data: you bring it: set data.root"
