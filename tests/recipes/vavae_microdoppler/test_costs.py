import re

import pytest
import torch

from lib.core.config import from_dotted
from lib.core.records import Stage
from lib.recipes.vavae_microdoppler import costs
from lib.recipes.vavae_microdoppler.autoencoder.assemble import trained
from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder
from lib.recipes.vavae_microdoppler.autoencoder.vision import Vision, timm_names
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.recipes.vavae_microdoppler.presets import DEMO, PRESETS


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes_have_the_published_counts():
    # facts/vavae.md 1.1, 1.3, 1.4, 1.5
    size = Config().model.autoencoder
    assert costs.encoder(size) == 28_413_248
    assert costs.decoder(size) == 41_417_603
    assert costs.quantisers(size) == (4_160, 1_056)
    assert costs.parameters(Config())["autoencoder"] == 69_836_067
    assert costs.critic(64, 3) == 2_765_633
    assert costs.perceptual((64, 128, 256, 512, 512)) == 14_714_688 + 1_472
    assert costs.parameters(Config())["projection"] == 32_768
    native = Config().model.vision_size.__class__(grid=37)
    assert costs.vision(native) == 304_367_616 + 1_024  # transformers adds the mask token
    assert len(timm_names(24)) == 342


@pytest.mark.parametrize("settings", [{}, DEMO], ids=["published", "demo"])
def test_closed_forms_equal_the_networks(settings):
    config = from_dotted(Config, settings)
    with torch.device("meta"):
        networks = {
            "autoencoder": build_autoencoder(config.model.autoencoder),
            "critic": PatchCritic(config.model.critic_width, config.model.critic_layers),
            "perceptual": Perceptual(tuple(config.model.lpips_widths)),
            "vision": Vision(config.model.vision_size),
        }
    found = costs.parameters(config)
    assert {name: found[name] for name in networks} == {name: count(network) for name, network in networks.items()}


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.startswith("dit_")])  # dit/test_assemble.py
def test_trainable_parameters_equal_what_the_patterns_open(preset):
    config = from_dotted(Config, PRESETS[preset])
    with torch.device("meta"):
        networks = {"autoencoder": build_autoencoder(config.model.autoencoder), "critic": PatchCritic()}
        if config.model.vf != "none":
            networks["projection"] = torch.nn.Conv2d(32, 1024, 1, bias=False)
    patterns = trained(config, Stage(config.train.stages[0], 1))
    opened = [
        p
        for name, network in networks.items()
        for key, p in network.named_parameters()
        if any(re.fullmatch(t, f"{name}.{key}") for t in patterns)
    ]
    assert sum(p.numel() for p in opened) == costs.trainable(config)
