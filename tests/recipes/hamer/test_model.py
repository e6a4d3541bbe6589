"""The network: the published sizes, an independent implementation, and parts that compose."""

import pytest
import torch

from lib.recipes.hamer import geometry
from lib.recipes.hamer.config import Config, ModelConfig
from lib.recipes.hamer.critic import Discriminator
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR, ViT


def test_published_numbers_of_tensors_and_parameters(hand):
    mano = Mano(hand)
    with torch.device("meta"):
        model, critic = HaMeR(Config().model, mano), Discriminator()
    assert count(model.backbone.state_dict().values()) == (389, 630_912_000)
    assert count(model.mano_head.parameters()) == (111, 39_497_837)
    assert [name for name, _ in model.mano_head.named_buffers()] == ["init_hand_pose", "init_betas", "init_cam"]
    assert count(critic.state_dict().values()) == (46, 1_545_211)
    assert len(model.state_dict()) == 389 + 111 + 3


def count(tensors):
    sizes = [tensor.numel() for tensor in tensors]
    return len(sizes), sum(sizes)


def test_backbone_equals_vitpose_of_transformers():
    """An implementation by others, with separate q, k and v: agreement is agreement on padding, both position terms and
    norms.
    """
    from transformers import VitPoseBackbone, VitPoseBackboneConfig

    ours = ViT(ModelConfig(width=32, depth=2, heads=4)).eval()
    torch.manual_seed(0)
    for tensor in ours.parameters():
        torch.nn.init.normal_(tensor, std=0.2)
    theirs = VitPoseBackbone(
        VitPoseBackboneConfig(
            image_size=[256, 192],
            patch_size=[16, 16],
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            mlp_ratio=4,
            num_experts=1,
            layer_norm_eps=1e-6,
        )
    ).eval()
    theirs.load_state_dict(dict(renamed(ours.state_dict())))
    images = torch.randn(2, 3, 256, 192)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images).feature_maps[-1], atol=1e-5, rtol=1e-5)


def renamed(state):
    names = {
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "last_norm": "layernorm",
        "blocks": "encoder.layer",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
    }
    for name, tensor in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "attn.qkv" in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                yield name.replace("attn.qkv", f"attention.attention.{part}"), rows
        else:
            yield name, tensor


def test_front_and_finish_are_the_whole(network, configure):
    model, crops = network(configure()), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = model(crops)
        for blocks in range(4):
            split = model.finish(model.front(crops, blocks), blocks)
            assert all(torch.equal(whole[name], split[name]) for name in whole)


def test_outer_columns_are_not_seen(network, configure):
    model, crops = network(configure()), torch.randn(1, 3, 64, 64)
    changed = crops.clone()
    changed[..., :8], changed[..., -8:] = 9.0, -9.0
    assert torch.equal(model(crops)["pred_vertices"], model(changed)["pred_vertices"])


def test_checkpointing_gives_the_same_gradients(network, configure):
    model, crops, found = network(configure()), torch.randn(1, 3, 64, 64), []
    for model.gradient_checkpointing in (False, True):
        model.zero_grad()
        model(crops)["pred_keypoints_2d"].sum().backward()
        found.append(model.backbone.blocks[0].attn.qkv.weight.grad.clone())
    assert found[0].abs().max() > 0
    torch.testing.assert_close(*found)


def test_stochastic_depth_leaves_out_whole_branches():
    torch.manual_seed(0)
    block = ViT(ModelConfig(width=8, depth=2, heads=1, drop_path=0.5)).train().blocks[1]
    kept = block.kept(torch.ones(400, 1, 1)).unique()
    assert kept.tolist() == [0.0, 2.0]
    assert (block.eval().kept(torch.ones(4, 1, 1)) == 1).all()


@pytest.mark.parametrize("rows", [1, 3])
def test_6d_code_gives_rotations_with_the_vectors_as_columns(rows):
    torch.manual_seed(1)
    code = torch.randn(rows, 6)  # 3 rows: the original takes its cross product over the wrong axis there
    rotation = geometry.rotation_from_6d(code)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(rows, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(rows))
    torch.testing.assert_close(rotation[:, :, 0], code[:, :3] / code[:, :3].norm(dim=1, keepdim=True))


def test_whole_image_camera_agrees_with_the_crop():
    camera, centre, size = torch.tensor([[2.5, 0.02, -0.03]]), torch.tensor([[300.0, 200]]), torch.tensor([140.0])
    points = 0.04 * torch.randn(1, 21, 3, generator=torch.Generator().manual_seed(0))
    crop = geometry.project(points, geometry.crop_translation(camera, 5000, 256), torch.full((1, 2), 5000 / 256))
    focal = 5000 / 256 * 640
    image_size = torch.tensor([[640.0, 480]])
    whole = geometry.project(
        points,
        geometry.full_translation(camera, centre, size, image_size, focal),
        torch.full((1, 2), focal),
        image_size / 2,
    )
    assert (crop * 140 + centre - whole).abs().max() < 0.2  # px; the two cameras differ by perspective alone
