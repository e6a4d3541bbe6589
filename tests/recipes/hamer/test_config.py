"""Settings that cannot work are refused with their key."""

import subprocess
import sys

import pytest

from lib import recipes
from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes import hamer


@pytest.mark.parametrize(("settings", "message"), [
    ({"model.heads": 7}, "model.width=1280 is not a multiple of model.heads=7"),
    ({"model.crop_px": 100}, "model.crop_px=100 must be a multiple of 8"),
    ({"data.format": "freihnad"}, "did you mean 'freihand'"),
    ({"lora.targets.backbone": ["atn"]}, "lora.targets.backbone='atn' is unknown: did you mean 'attn'"),
    ({"lora.last_blocks": 33}, "lora.last_blocks=33 is more than model.depth=32"),
    ({"lora.targets.backbone": [], "lora.targets.head": []}, "nothing would be trained"),
    ({"loss.betas": -1}, "loss.betas=-1"),
    ({"data.val_share": 1.0}, "data.val_share=1.0 is not between 0 and 1"),
])  # fmt: skip
def test_impossible_setting_is_named(settings, message):
    with pytest.raises(Stop, match=message):
        from_dotted(hamer.Config, settings)


def test_presets_and_the_demo_compose():
    for preset in hamer.PRESETS.values():
        for scale in ({}, hamer.DEMO, hamer.DEMO | hamer.TINY):
            from_dotted(hamer.Config, preset | scale)


def test_demo_changes_only_what_a_demo_may():
    free = ("model.", "data.", "train.epochs", "train.lr", "train.micro_batch", "train.global_batch")
    assert all(key.startswith(free) for key in hamer.DEMO | hamer.TINY)


def test_package_keeps_the_contract():
    recipes.load("hamer")  # refuses what is missing, misspelt or has other parameters


def test_plan_and_assets_need_no_torch():
    code = (
        "import sys; from lib import recipes; recipe = recipes.load('hamer'); config = recipe.Config(); "
        "recipe.plan(config), recipe.assets(config); assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
