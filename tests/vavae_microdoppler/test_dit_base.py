"""The demo's published network, which is shipped."""

import pytest

from lib.config import from_dotted
from lib.recipes.vavae_microdoppler import dit_assemble, dit_base
from lib.recipes.vavae_microdoppler.config import DEMO, PRESETS, TINY, Config


@pytest.mark.parametrize("scale", [DEMO, DEMO | TINY], ids=["demo", "tiny"])
def test_the_shipped_network_is_a_trained_one_and_fits_the_demo(scale):
    file = dit_base.TARGET
    assert file.stat().st_size <= 4e6
    cfg = from_dotted(Config, PRESETS["dit_lora"] | scale)
    network, _ = dit_assemble.network(cfg, 6, {"dit": file.parent})
    # a fresh network predicts 0, whose squared error is 2: noise and data of variance 1
    assert network.final_layer.linear.weight.abs().mean() > 1e-3 and all(b.adaLN_modulation[1].weight.any() for b in network.blocks)
