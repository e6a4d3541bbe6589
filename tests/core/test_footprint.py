"""Bytes on a card, whole and divided: the closed form against sums by hand, and every recipe's counts."""

import pytest

from lib import recipes
from lib.core import footprint
from lib.core.config import compose
from lib.core.footprint import card_bytes, fits, needs_shards, parts
from lib.core.records import Block, Footprint
from lib.network import gradients

FROZEN = Footprint(
    frozen_rest=700,
    trained=10,
    activations={"activations": 50},
    blocks=(Block(9_001, 9_001), *(Block(400, 400),) * 10),
)
TRAINED = Footprint(
    frozen_rest=0, trained=3, activations={}, blocks=(Block(20, 0, 10),) * 100, copies=2006, averaged=True
)
RUNTIME = footprint.RUNTIME_BYTES


def test_whole_every_card_holds_all_of_it():
    for cards in (1, 8):
        assert card_bytes(FROZEN, cards) == 13_001 + 700 + 24 * 10 + 50 + RUNTIME
        assert card_bytes(TRAINED, cards) == 28 * 1003 + 2006 + RUNTIME


def test_sharded_blocks_are_divided_and_two_of_them_are_gathered():
    assert card_bytes(FROZEN, 1, sharded=True) == 13_001 + 9_001 + 700 + 24 * 10 + 50 + RUNTIME
    assert card_bytes(FROZEN, 2, sharded=True) == 6_501 + (9_001 + 400) + 700 + 24 * 10 + 50 + RUNTIME
    assert card_bytes(TRAINED, 4, sharded=True) == 20 * 250 + 2 * 20 + 6 * 10 + 28 * 3 + RUNTIME
    assert "copies" not in parts(TRAINED, 4, sharded=True)  # the engine casts a gathered block, and drops it


def test_the_flat_sum_is_counted_as_the_loop_makes_it():
    assert footprint.FLOAT64_LIMIT == gradients.FLOAT64_LIMIT
    limit = footprint.FLOAT64_LIMIT
    assert parts(Footprint(0, limit, {}))["trained"] == 24 * limit
    assert parts(Footprint(0, limit + 1, {}))["trained"] == 20 * (limit + 1)


def test_auto_shards_what_no_card_holds():
    whole = card_bytes(FROZEN)
    assert fits(FROZEN, int(whole / footprint.USABLE) + 1) and not fits(FROZEN, whole)
    assert needs_shards(FROZEN, whole, cards=2)
    assert not needs_shards(FROZEN, 2 * whole, cards=2)  # it fits
    assert not needs_shards(FROZEN, whole, cards=1)  # nobody to share with
    assert not needs_shards(Footprint(10**12, 1, {}), whole, cards=2)  # nothing to divide


def planned(recipe: str, preset: str, demo: bool = False, **settings):
    loaded = recipes.load(recipe)
    return loaded.plan(compose(loaded, preset, demo, "full", settings)[0])


# Vicuna-7B
LAYER, LAYERS, WORDS, LAST_NORM = 4 * 4096**2 + 3 * 4096 * 11_008 + 2 * 4096, 32, 32_000 * 4096, 4096


def test_a_frozen_vicuna_is_divided_by_its_layers():
    one = planned("llava_map", "stage2").footprint
    assert one.blocks == (Block(2 * WORDS, 2 * WORDS), *(Block(2 * LAYER, 2 * LAYER),) * LAYERS)
    image = one.frozen_rest - 2 * LAST_NORM
    assert 90e6 < image < 100e6  # ResNet-50 in fp32
    others = image + 20 * one.trained + sum(one.activations.values()) + RUNTIME
    for cards in (2, 4, 8):
        wanted = 2 * (WORDS + LAYERS * LAYER) / cards + 2 * 2 * LAYER + 2 * LAST_NORM + others
        assert card_bytes(one, cards, sharded=True) == pytest.approx(wanted)


def test_a_trained_vicuna_needs_sixteen_bytes_of_a_number_divided_by_the_cards():
    one = planned("llava_map", "stage3_full").footprint
    assert (one.trained_in_blocks, one.frozen_blocks) == (WORDS + LAYERS * LAYER, 0)
    per_card = {cards: card_bytes(one, cards, sharded=True) for cards in (2, 4, 8)}
    assert per_card[2] - per_card[4] == pytest.approx(16 * (WORDS + LAYERS * LAYER) / 4)
    assert 20e9 < per_card[8] < 25e9 and card_bytes(one) > 140e9


PRESETS = [(name, preset) for name in recipes.RECIPES for preset in recipes.load(name).PRESETS]


@pytest.mark.parametrize("demo", [False, True], ids=["full", "demo"])
@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_number_of_a_network_is_counted_once(name, preset, demo):
    """Frozen bytes are at most 4 of a number (2 in bf16), and what is trained beside adapters is not frozen too."""
    plan = planned(name, preset, demo)
    one = plan.footprint
    frozen = one.frozen_rest + one.frozen_blocks
    assert one.trained >= 0 and one.frozen_rest >= 0 and one.frozen_blocks >= 0
    if "dit" not in preset or preset.startswith("dit"):  # of a chain, the footprint is one stage's
        assert one.trained + one.trained_in_blocks <= plan.trainable
    assert 2 * (plan.parameters - plan.trainable) <= frozen <= 4 * plan.parameters
    assert all(block.frozen <= block.whole <= block.frozen + 4 * block.trained for block in one.blocks)
    assert card_bytes(one, 8, sharded=True) <= card_bytes(one, 2, sharded=True)
