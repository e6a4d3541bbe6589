"""Promises of the network that hold without golden weights; its numbers are compared in tests/golden_vggt.py."""

import peft
import pytest
import torch
from torch import nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from lib.core.errors import Stop
from lib.recipes.vggt_eth3d.model import VGGT, PatchEmbed
from lib.recipes.vggt_eth3d.size import ModelSize
from lib.scenes import dpt, layers
from tests.scenes.recomputed import kept_bytes, refuse_other_gradients

SMALL = {
    "img_size": 42, "embed_dim": 32, "depth": 4, "num_heads": 2, "patch_embed_depth": 2, "patch_embed_num_heads": 2,
    "camera_trunk_depth": 1, "camera_num_heads": 2, "dpt_features": 16, "dpt_out_channels": [8, 12, 16, 20],
    "dpt_intermediate_layers": [0, 1, 2, 3], "point_head": True,
}  # fmt: skip


def network(**changed) -> VGGT:
    """A small one whose weights are large enough for every part to matter."""
    torch.manual_seed(0)
    built = VGGT(ModelSize(**SMALL | changed)).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.5, 1.0)
            elif "token" in name or "pos_embed" in name:
                parameter.normal_(std=0.5)
    return built


def photos(frames: int = 3, height: int = 42, width: int = 56, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


def largest_difference(one: dict, two: dict) -> float:
    return max((one[key] - two[key]).abs().max().item() for key in one if key != "pose_enc_list")


def test_outputs_have_the_published_names_and_shapes():
    with torch.no_grad():
        found = network()(photos(batch=2))
    assert {key: tuple(value.shape) for key, value in found.items() if key != "pose_enc_list"} == {
        "pose_enc": (2, 3, 9), "depth": (2, 3, 42, 56, 1), "depth_conf": (2, 3, 42, 56),
        "world_points": (2, 3, 42, 56, 3), "world_points_conf": (2, 3, 42, 56),
    }  # fmt: skip
    assert len(found["pose_enc_list"]) == 4 and found["pose_enc_list"][-1] is found["pose_enc"]
    assert found["depth"].min() > 0 and found["depth_conf"].min() >= 1 and found["pose_enc"][..., 7:].min() >= 0


@pytest.mark.parametrize(
    "off, gone", [("camera_head", "pose_enc"), ("depth_head", "depth"), ("point_head", "world_points")]
)
def test_a_head_that_is_not_built_has_no_weights_and_no_output(off, gone):
    built = network(**{off: False})
    assert not any(name.startswith(off) for name in built.state_dict())
    with torch.no_grad():
        assert gone not in built(photos())


def test_only_the_layers_that_heads_read_are_kept():
    built = network(depth=6, dpt_intermediate_layers=[0, 2, 3, 4])
    with torch.no_grad():
        assert sorted(built.layers(photos(), built.front(photos(), 0), 0)) == [0, 2, 3, 4, 5]
    assert ModelSize(camera_head=False).kept_layers == (4, 11, 17, 23) == ModelSize().kept_layers
    assert ModelSize(depth_head=False).kept_layers == (23,)


@pytest.mark.parametrize("blocks", [0, 1, 2, 4])
def test_going_on_from_the_frozen_front_changes_nothing(blocks):
    built, images = network(), photos(batch=2)
    with torch.no_grad():
        assert largest_difference(built(images), built(images, built.front(images, blocks), blocks)) == 0


def test_patch_tokens_of_a_frame_do_not_depend_on_the_others():
    built, images = network(), photos()
    with torch.no_grad():
        together, alone = built.front(images, 0), torch.cat([built.front(images[:, i : i + 1], 0) for i in range(3)], 1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_only_the_first_frame_is_special():
    built, images = network(), photos()
    with torch.no_grad():
        straight, swapped, moved = built(images), built(images[:, [0, 2, 1]]), built(images[:, [1, 0, 2]])
    torch.testing.assert_close(swapped["depth"][:, [0, 2, 1]], straight["depth"], rtol=1e-5, atol=1e-5)
    assert (moved["depth"][:, [1, 0, 2]] - straight["depth"]).abs().max() > 1e-4


@pytest.mark.parametrize("height, width", [(42, 42), (42, 56), (70, 28)])
def test_patch_embed_is_dinov2_with_registers(height, width):
    """Against transformers' implementation with our weights."""
    ours = network().aggregator.patch_embed
    shape = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=4, image_size=42, patch_size=14,
        num_register_tokens=4,
    )  # fmt: skip
    theirs = Dinov2WithRegistersModel(shape).eval()
    theirs.load_state_dict(dict(to_transformers(ours)))
    images = photos(1, height, width)[0]
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images).last_hidden_state[:, 5:], rtol=1e-4, atol=2e-5)


def to_transformers(ours: PatchEmbed):
    """Their names for our tensors; they keep queries, keys and values apart."""
    state = ours.state_dict()
    for name in ("cls_token", "mask_token", "register_tokens"):
        yield f"embeddings.{name}", state[name]
    yield "embeddings.position_embeddings", state["pos_embed"]
    for part in ("weight", "bias"):
        yield f"embeddings.patch_embeddings.projection.{part}", state[f"patch_embed.proj.{part}"]
        yield f"layernorm.{part}", state[f"norm.{part}"]
    names = {"attn.proj": "attention.o_proj"} | {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
    for i in range(2):
        for part in ("weight", "bias"):
            for old, new in names.items():
                yield f"encoder.layer.{i}.{new}.{part}", state[f"blocks.{i}.{old}.{part}"]
            for letter, tensor in zip("qkv", state[f"blocks.{i}.attn.qkv.{part}"].chunk(3), strict=True):
                yield f"encoder.layer.{i}.attention.{letter}_proj.{part}", tensor
        for n in (1, 2):
            yield f"encoder.layer.{i}.layer_scale{n}.lambda1", state[f"blocks.{i}.ls{n}.gamma"]


def test_rope_leaves_position_zero_and_turns_pairs_by_the_formula():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 1, 3, 8, generator=generator)
    turned = layers.rotate(tokens, layers.rope(torch.tensor([[0, 0], [2, 0], [0, 3]]), 8, 100.0))
    torch.testing.assert_close(turned[0, 0, 0], tokens[0, 0, 0])
    # Two frequencies per axis, 1 and 100^(-1/2) = 0.1; entries (0, 2) and (1, 3) turn with y, (4, 6) and (5, 7) with x.
    for token, first, angle in ((1, 0, 2.0), (1, 1, 0.2), (2, 4, 3.0), (2, 5, 0.3)):
        a, b = tokens[0, 0, token, first], tokens[0, 0, token, first + 2]
        cosine, sine = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        torch.testing.assert_close(turned[0, 0, token, first], a * cosine - b * sine)
        torch.testing.assert_close(turned[0, 0, token, first + 2], b * cosine + a * sine)
    torch.testing.assert_close(turned[0, 0, 1, 4:], tokens[0, 0, 1, 4:])


def test_the_skip_path_of_a_residual_unit_carries_relu():
    unit = dpt.Residual(4)
    nn.init.zeros_(unit.conv2.weight)
    nn.init.zeros_(unit.conv2.bias)
    x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit(x), x.clamp(min=0))


def test_uv_embedding_is_symmetric_about_the_centre():
    embedding = dpt.uv_embedding(16, 5, 7, 7 / 5)
    along_x, along_y = embedding[:8], embedding[8:]
    assert (along_x[:, 0] == along_x[:, 4]).all() and (along_y[:, :, 0] == along_y[:, :, 6]).all()
    torch.testing.assert_close(along_x[:4], -along_x[:4].flip(-1))  # sines
    torch.testing.assert_close(along_x[4:], along_x[4:].flip(-1))  # cosines
    half_diagonal_x = (7 / 5) / ((7 / 5) ** 2 + 1) ** 0.5 * 6 / 7  # the outermost cell's centre
    torch.testing.assert_close(along_x[0, 0, 6], torch.tensor(half_diagonal_x).sin())


def test_frames_in_chunks_give_the_same_map(monkeypatch):
    built, images = network(), photos(5)
    with torch.no_grad():
        whole = built(images)
        monkeypatch.setattr(dpt, "FRAMES_AT_ONCE", 2)
        assert largest_difference(whole, built(images)) < 1e-5


def trained_gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
    built = network().requires_grad_(False)
    built.gradient_checkpointing = checkpointing
    targets = r".*(qkv|fc2|projects\.\d|output_conv2\.0)"
    peft.get_peft_model(built, peft.LoraConfig(r=2, lora_dropout=0.0, init_lora_weights=False, target_modules=targets))
    found = built(photos())
    (found["depth"].sum() + found["depth_conf"].sum() + found["pose_enc"].sum()).backward()
    return {
        name: parameter.grad
        for name, parameter in built.named_parameters()
        if parameter.requires_grad and "point_head" not in name
    }


def test_checkpointing_gives_the_same_gradients():
    plain, recomputed = trained_gradients(False), trained_gradients(True)
    refuse_other_gradients(plain, recomputed)


def test_checkpointing_keeps_less():
    with_it, without = (kept_bytes(network, photos(), on) for on in (True, False))
    assert with_it < without / 4


def test_heads_stay_in_fp32_under_autocast():
    built, images = network(), photos()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        stream = built.layers(images, built.front(images, 0), 0)
        found = built(images)
    with torch.no_grad():
        expected = built.predict({index: layer.float() for index, layer in stream.items()}, 42, 56)
    assert found["depth"].dtype == torch.float32 and largest_difference(found, expected) == 0


def test_a_fresh_network_starts_near_depth_one():
    torch.manual_seed(0)
    with torch.no_grad():
        found = VGGT(ModelSize(**SMALL))(photos())
    assert found["depth"].min() > 0.5 and found["depth"].max() < 2 and found["pose_enc"].isfinite().all()


@pytest.mark.parametrize("changed, named", [
    ({"embed_dim": 30}, "embed_dim"), ({"img_size": 500}, "img_size"),
    ({"dpt_intermediate_layers": [4, 11, 17, 24]}, "dpt_intermediate_layers"),
    ({"dpt_intermediate_layers": [11, 4, 17, 23]}, "dpt_intermediate_layers"),
    ({"dpt_out_channels": [256, 512, 1024]}, "dpt_out_channels"), ({"depth": 0}, "depth"),
    ({"dpt_features": 20}, "dpt_features"),
])  # fmt: skip
def test_impossible_sizes_are_refused_by_name(changed, named):
    with pytest.raises(Stop, match=named):
        ModelSize(**changed)
