"""The demo's published network, which is shipped."""

import pytest

from lib.core.config import from_dotted
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import assemble, pretrain
from lib.recipes.vavae_microdoppler.presets import DEMO, PRESETS, TINY


@pytest.mark.parametrize("scale", [DEMO, DEMO | TINY], ids=["demo", "tiny"])
def test_the_shipped_network_is_a_trained_one_and_fits_the_demo(scale):
    file = pretrain.TARGET
    assert file.stat().st_size <= 4e6
    config = from_dotted(Config, PRESETS["dit_lora"] | scale)
    network, _ = assemble.network(config, 6, {"dit": file.parent})
    # a fresh network predicts 0, whose squared error is 2: noise and data of variance 1
    assert network.final_layer.linear.weight.abs().mean() > 1e-3
    assert all(block.adaLN_modulation[1].weight.any() for block in network.blocks)
