import pytest
import torch

from lib.config import from_dotted
from lib.recipes import Stage
from lib.recipes.vavae_microdoppler import costs
from lib.recipes.vavae_microdoppler.assemble import trained
from lib.recipes.vavae_microdoppler.autoencoder import build_autoencoder
from lib.recipes.vavae_microdoppler.config import DEMO, PRESETS, Config
from lib.recipes.vavae_microdoppler.critic import PatchCritic
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.recipes.vavae_microdoppler.vision import Vision, timm_names


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
    cfg = from_dotted(Config, settings)
    with torch.device("meta"):
        networks = {
            "autoencoder": build_autoencoder(cfg.model.autoencoder), "critic": PatchCritic(cfg.model.critic_width, cfg.model.critic_layers),
            "perceptual": Perceptual(tuple(cfg.model.lpips_widths)), "vision": Vision(cfg.model.vision_size),
        }  # fmt: skip
    found = costs.parameters(cfg)
    assert {name: found[name] for name in networks} == {name: count(network) for name, network in networks.items()}


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.startswith("dit_")])  # those: test_dit_assemble.py
def test_trainable_numbers_equal_what_the_patterns_open(preset):
    import re

    cfg = from_dotted(Config, PRESETS[preset])
    with torch.device("meta"):
        networks = {"autoencoder": build_autoencoder(cfg.model.autoencoder), "critic": PatchCritic()}
        if cfg.model.vf != "none":
            networks["projection"] = torch.nn.Conv2d(32, 1024, 1, bias=False)
    patterns = trained(cfg, Stage(cfg.train.stages[0], 1))
    opened = [
        p
        for name, network in networks.items()
        for key, p in network.named_parameters()
        if any(re.fullmatch(t, f"{name}.{key}") for t in patterns)
    ]
    assert sum(p.numel() for p in opened) == costs.trainable(cfg)
