import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from lib.core.config import from_dotted
from lib.core.records import Parts, Stage
from lib.recipes.vavae_microdoppler.autoencoder.model import (
    build_autoencoder,
    from_published,
    key_map,
    published_name,
    to_published,
)
from lib.recipes.vavae_microdoppler.autoencoder.predict import export
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.latents import RunningMoments
from lib.recipes.vavae_microdoppler.presets import DEMO
from lib.recipes.vavae_microdoppler.size import AutoencoderSize

SMALL = AutoencoderSize(
    channels=8, multipliers=(1, 2, 2), blocks=1, attention=(2,), norm_groups=4, image_px=16,
    latent_channels=4, encoder_channels=4,
)  # fmt: skip


def test_published_network_has_the_published_names_and_shapes():
    # facts/vavae.md 1.1: 144 + 194 + 2 + 2 tensors, 69 836 067 parameters, attention as 1x1 convolutions
    with torch.device("meta"):
        model = build_autoencoder(AutoencoderSize())
    state = to_published(model)
    counts = {"encoder.": 144, "decoder.": 194, "quant_conv.": 2, "post_quant_conv.": 2}
    assert {part: sum(name.startswith(part) for name in state) for part in counts} == counts
    assert sum(t.numel() for t in state.values()) == 69_836_067
    shapes = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.conv_out.weight": (64, 512, 3, 3),
        "encoder.down.4.attn.1.proj_out.weight": (512, 512, 1, 1),
        "encoder.down.3.downsample.conv.weight": (256, 256, 3, 3),
        "encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "decoder.up.4.attn.2.norm.weight": (512,),
        "decoder.up.3.block.0.nin_shortcut.weight": (256, 512, 1, 1),
        "decoder.up.1.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "decoder.up.1.upsample.conv.weight": (128, 128, 3, 3),
        "decoder.mid.block_2.conv2.bias": (512,),
        "decoder.norm_out.weight": (128,),
        "decoder.conv_out.weight": (3, 128, 3, 3),
        "quant_conv.weight": (64, 64, 1, 1),
        "post_quant_conv.weight": (32, 32, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert not [name for name in state if ".up.0.upsample" in name or ".down.4.downsample" in name]


def test_levels_of_the_decoder_are_counted_from_the_other_end():
    assert published_name("decoder.up_blocks.0.resnets.1.conv1.weight", 5) == "decoder.up.4.block.1.conv1.weight"
    assert published_name("encoder.down_blocks.0.resnets.1.conv1.weight", 5) == "encoder.down.0.block.1.conv1.weight"


def test_names_and_values_survive_the_round_trip():
    torch.manual_seed(0)
    model, other = build_autoencoder(SMALL), build_autoencoder(SMALL)
    other.load_state_dict(from_published(to_published(model), other), strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert len(key_map(model)) == len(model.state_dict())


def test_an_unknown_tensor_is_kept_so_that_a_strict_load_refuses_it():
    model = build_autoencoder(SMALL)
    state = to_published(model) | {"encoder.down.7.block.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict(from_published(state, model), strict=True)


def test_diffusers_loads_the_exported_folder_and_gives_the_same_output(tmp_path):
    torch.manual_seed(0)
    model, statistics = build_autoencoder(SMALL).eval(), RunningMoments(4)
    statistics.update(torch.randn(64, 4, 3, 3) * 2 + 1)
    export(Config(), Stage("align", 1), Parts({"autoencoder": model, "statistics": statistics}), tmp_path)
    loaded = AutoencoderKL.from_pretrained(tmp_path / "diffusers").eval()
    twin = build_autoencoder(SMALL).eval()
    published = load_file(tmp_path / "vavae_published.safetensors")
    twin.load_state_dict(from_published(published, twin), strict=True)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = model.decode(model.encode(image).latent_dist.mode()).sample
        for other in (loaded, twin):
            found = other.decode(other.encode(image).latent_dist.mode()).sample
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert loaded.config.latents_std[0] == pytest.approx(2.0, abs=0.3)
    for_dit = load_file(tmp_path / "vavae_encoder_for_dit.safetensors")
    assert for_dit.keys() == published.keys() | {"latent_mean", "latent_std"}


def test_the_demo_shares_the_published_structure():
    size = from_dotted(Config, DEMO).model.autoencoder
    # as published, only the last level attends, and 32 channels are kept
    assert size.attention == (size.levels - 1,) and size.latent_channels == 32
    assert size.multipliers[-1] == max(size.multipliers)
