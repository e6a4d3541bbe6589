import torch
from torch.nn import functional as F

from lib.recipes.vavae_microdoppler.autoencoder.vision import Vision, from_timm, resampled, timm_names, to_timm
from lib.recipes.vavae_microdoppler.size import VisionSize

SMALL = VisionSize(width=8, depth=2, heads=2, grid=3)


def test_names_and_values_survive_the_round_trip():
    torch.manual_seed(0)
    network = Vision(SMALL)
    state, back = network.state_dict(), from_timm(to_timm(network), 3)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state if "mask_token" not in name)


def test_queries_keys_and_values_are_thirds_in_this_order():
    stored = {name: torch.zeros(1) for name in timm_names(1)}
    stored |= {"cls_token": torch.zeros(1, 1, 2), "pos_embed": torch.zeros(1, 2, 2)}
    stored |= {
        "blocks.0.attn.qkv.weight": torch.arange(12.0).reshape(6, 2),
        "blocks.0.attn.qkv.bias": torch.arange(6.0),
    }
    state = from_timm(stored, 1)
    assert state["model.encoder.layer.0.attention.k_proj.bias"].tolist() == [2, 3]
    assert state["model.encoder.layer.0.attention.v_proj.weight"].tolist() == [[8, 9], [10, 11]]


def test_position_table_is_resampled_with_antialiasing():
    # timm's way, facts/vavae.md 1.3; without antialiasing the features are others
    table = torch.randn(1, 1 + 37 * 37, 4, generator=torch.Generator().manual_seed(0))
    grid = table[:, 1:].transpose(1, 2).reshape(1, 4, 37, 37)
    wanted, plain = (
        F.interpolate(grid, (16, 16), mode="bicubic", antialias=a, align_corners=False).flatten(2).transpose(1, 2)
        for a in (True, False)
    )
    found = resampled(table, 16)
    assert torch.equal(found[:, :1], table[:, :1])
    torch.testing.assert_close(found[:, 1:], wanted)
    assert (found[:, 1:] - plain).abs().max() > 0.1


def test_features_share_the_grid_of_the_latent_and_input_can_be_normalised():
    torch.manual_seed(0)
    network = Vision(SMALL).eval()
    other = Vision(VisionSize(8, 2, 2, 3, imagenet=True)).eval()
    other.load_state_dict(network.state_dict())
    image = torch.rand(2, 3, 48, 48) * 2 - 1
    with torch.no_grad():
        assert network(image).shape == (2, 8, 3, 3)
        assert not torch.allclose(network(image), other(image), atol=1e-3)
