"""Promises of the network that hold without golden weights; its numbers are compared in tests/golden_da3.py."""

import re

import peft
import pytest
import torch
from torch import nn

from lib.core.errors import Stop
from lib.recipes.da3_eth3d import heads
from lib.recipes.da3_eth3d.size import ModelSize
from lib.scenes import dpt, geometry
from tests.recipes.da3_eth3d.networks import LITTLE, cameras, largest_difference, network, outputs, photos
from tests.scenes.recomputed import kept_bytes, refuse_other_gradients


def test_outputs_have_the_names_and_shapes_that_losses_and_scores_take():
    found = outputs(network(), photos(batch=2))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "depth": (2, 3, 42, 56, 1), "depth_conf": (2, 3, 42, 56), "ray": (2, 3, 24, 32, 6), "ray_conf": (2, 3, 24, 32),
        "pose_code": (2, 3, 9), "pose_enc": (2, 3, 9),
    }  # fmt: skip
    assert found["depth"].min() > 0 and found["depth_conf"].min() >= 1 and found["ray_conf"].min() >= 1


def test_without_rays_their_chain_does_not_run():
    built, ran = network(), []
    built.head.scratch.refinenet1_aux.register_forward_hook(lambda *given: ran.append(1))
    plain = built(photos())
    assert "ray" not in plain and not ran and plain["pose_enc_list"][-1] is plain["pose_enc"]
    assert largest_difference({"depth": plain["depth"]}, outputs(built, photos())) == 0 and ran


# ---------------------------------------------------------------------------------------------- the backbone


@pytest.mark.parametrize("known", [None, cameras(batch=2)])
@pytest.mark.parametrize("blocks", [0, 5, 6, 7, 12])
def test_going_on_from_the_kept_front_changes_nothing(blocks, known):
    built, images = network(), photos(batch=2)
    with torch.no_grad():
        front = built.front(images)
        front = built.front_of_views(images, front, known, blocks) if blocks else front
    again = outputs(built, images, front, known, blocks=blocks)
    assert largest_difference(outputs(built, images, known=known), again) == 0


def test_the_front_of_a_view_does_not_depend_on_the_others():
    built, images = network(), photos()
    with torch.no_grad():
        together, alone = built.front(images), torch.cat([built.front(images[:, i : i + 1]) for i in range(3)], 1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (36, 24), (74, 18)])
def test_the_table_of_positions_is_read_a_tenth_of_a_cell_too_fine_and_without_antialiasing(grid):
    trunk = network().trunk
    with torch.no_grad():
        found = trunk.positions(torch.Size(grid))[0, 1:].unflatten(0, grid).double()
    table = trunk.pos_embed[0, 1:].detach().double().unflatten(0, (37, 37))
    for row, column in ((0, 0), (grid[0] - 1, grid[1] // 2), (grid[0] // 2, grid[1] - 1)):
        rows, columns = (read(place, count) for place, count in zip((row, column), grid, strict=True))
        expected = torch.einsum("r, c, rcd -> d", rows, columns, table)
        torch.testing.assert_close(found[row, column], expected, atol=1e-5, rtol=0)
    assert torch.equal(trunk.positions(torch.Size(grid))[:, 0], trunk.pos_embed[:, 0])


def read(place: int, count: int) -> torch.Tensor:
    """The weights (37,) of a cubic convolution at a place of a grid of `count` cells."""
    at = (place + 0.5) * 37 / (count + 0.1) - 0.5
    weights, a = torch.zeros(37, dtype=torch.float64), -0.75
    for tap in range(int(at // 1) - 1, int(at // 1) + 3):
        off = abs(at - tap)
        near, far = (a + 2) * off**3 - (a + 3) * off**2 + 1, a * (off**3 - 5 * off**2 + 8 * off - 4)
        weights[min(max(tap, 0), 36)] += near if off <= 1 else far
    return weights


def test_the_native_grid_uses_the_table_as_it_is_and_another_shape_of_as_many_cells_does_not():
    trunk = network(img_size=56).trunk
    assert trunk.positions(torch.Size((4, 4))) is trunk.pos_embed
    with torch.no_grad():
        assert (trunk.positions(torch.Size((2, 8))) - trunk.pos_embed).abs().max() > 0.1


def test_eps_is_that_of_each_published_norm():
    for name, module in network().named_modules():
        if isinstance(module, nn.LayerNorm):
            of_block = name.startswith("backbone") and name.endswith(("norm1", "norm2"))
            assert module.eps == (1e-6 if of_block else 1e-5), name


def test_queries_and_keys_are_normalised_and_turned_from_their_blocks_on():
    built, turned = network(alt_start=4, qknorm_start=2, rope_start=6), {}
    for index, block in enumerate(built.trunk.blocks):
        block.register_forward_hook(lambda _, given, made, index=index: turned.update({index: given[1]}))
        assert isinstance(block.attn.q_norm, nn.LayerNorm) == (index >= 2)
    outputs(built, photos())
    assert [index for index, turn in turned.items() if turn is not None] == list(range(6, 12))


def test_patches_have_places_inside_a_view_and_one_place_across_views():
    trunk = network().trunk
    one_view, all_views = trunk.turns(photos())  # 3 x 4 patches and a camera token
    assert len(one_view.cos) == 13 and len(all_views.cos) == 39
    assert (one_view.sin[0] == 0).all() and len(one_view.sin[1:].unique(dim=0)) == 12
    views = all_views.sin.view(3, 13, 2, -1)
    assert (views[:, 0] == 0).all() and len(views[:, 1:].flatten(0, 1).unique(dim=0)) == 1
    torch.testing.assert_close(views[0, 1, 0, 0], torch.tensor(1.0).sin())
    torch.testing.assert_close(one_view.sin[4 + 1, :, 0], torch.tensor([2.0, 1.0]).sin())  # second row, first column


def test_odd_blocks_from_the_start_on_look_across_views():
    built, views = network(), {}
    for index, block in enumerate(built.trunk.blocks):
        block.register_forward_hook(lambda _, given, made, index=index: views.update({index: len(given[0])}))
    outputs(built, photos(batch=2))
    assert views == {index: 2 if index in (5, 7, 9, 11) else 6 for index in range(12)}


def test_heads_get_the_half_after_the_block_normalised_and_the_half_inside_the_view_as_it_is():
    built, raw = network(), {}
    built.trunk.blocks[10].register_forward_hook(lambda _, given, made: raw.update(alone=made))
    built.trunk.blocks[11].register_forward_hook(lambda _, given, made: raw.update(after=made))
    with torch.no_grad():
        read = built.read(photos(), None, None, "first")
        alone, after = raw["alone"].view(1, 3, 13, 32), raw["after"].view(1, 3, 13, 32)
        expected = torch.cat([alone, built.trunk.norm(after)], -1)
    assert torch.equal(read.patches[-1], expected[:, :, 1:])
    assert torch.equal(read.camera_tokens[-1], torch.cat([alone, after], -1)[:, :, 0])


def test_where_the_first_block_across_views_comes_first_the_other_half_holds_the_camera_token():
    built = network(alt_start=5, qknorm_start=5, rope_start=5)
    with torch.no_grad():
        read = built.read(photos(), None, None, "first")
    assert torch.equal(read.camera_tokens[0][0, :, :32], built.trunk.camera_token[0, [0, 1, 1]])


# ---------------------------------------------------------------------------------------------- order and cameras


def test_only_the_first_view_is_special():
    built, images = network(), photos()
    straight = outputs(built, images)
    swapped, moved = outputs(built, images[:, [0, 2, 1]]), outputs(built, images[:, [1, 0, 2]])
    assert largest_difference(straight, {name: value[:, [0, 2, 1]] for name, value in swapped.items()}) < 1e-4
    assert largest_difference(straight, {name: value[:, [1, 0, 2]] for name, value in moved.items()}) > 1e-2


def test_a_chosen_reference_comes_first_inside_and_the_outputs_keep_their_order():
    built, images = network(), photos()
    chosen = outputs(built, images, reference="middle")
    by_hand = outputs(built, images[:, [1, 0, 2]])
    back = {name: value[:, [1, 0, 2]] for name, value in by_hand.items()}
    assert largest_difference(chosen, back) < 1e-4
    assert largest_difference(chosen, outputs(built, images)) > 1e-2


def test_nothing_is_chosen_by_default_with_two_views_or_with_known_cameras():
    built, images = network(), photos()
    with torch.no_grad():
        assert built.read(images, None, None, "first").reference.tolist() == [0]
        assert built.read(images[:, :2], None, None, "middle").reference is None
        assert built.read(images, None, cameras(), "middle").reference is None


def test_a_kept_front_has_no_class_tokens_to_choose_by():
    built, images = network(), photos()
    with pytest.raises(AssertionError, match="class tokens"):
        built(images, built.front(images), reference="saddle_balanced")
    with pytest.raises(AssertionError, match="has its reference view"):
        built(images, built.front(images), reference="middle", blocks=6)


def test_known_cameras_take_the_place_of_the_learned_tokens():
    built, images = network(), photos()
    given = outputs(built, images, known=cameras())
    with torch.no_grad():
        built.trunk.camera_token.add_(1)
    assert largest_difference(given, outputs(built, images, known=cameras())) == 0
    cam_from_world, intrinsics = cameras()
    four_rows = torch.cat([cam_from_world, torch.tensor([0.0, 0, 0, 1]).expand(1, 3, 1, 4)], -2)
    assert largest_difference(given, outputs(built, images, known=(four_rows, intrinsics))) == 0
    assert largest_difference(given, outputs(built, images, known=(cam_from_world, 2 * intrinsics))) > 1e-4


def test_cameras_come_in_the_code_of_the_scenes():
    found = outputs(network(), photos())
    world_from_cam, _ = geometry.decode_cameras(found["pose_code"], 42, 56)
    cam_from_world, intrinsics = geometry.decode_cameras(found["pose_enc"], 42, 56)
    torch.testing.assert_close(geometry.inverse(world_from_cam), cam_from_world, rtol=1e-4, atol=1e-5)
    assert intrinsics.isfinite().all()


# ---------------------------------------------------------------------------------------------- the dense head


def test_the_skip_path_of_a_residual_unit_carries_x_itself():
    unit = heads.Residual(4)
    nn.init.zeros_(unit.conv2.weight)
    nn.init.zeros_(unit.conv2.bias)
    x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unit(x), x)
    units = [module for module in network().modules() if isinstance(module, dpt.Residual)]
    assert len(units) == 14 and all(type(module) is heads.Residual for module in units)


def test_the_last_ray_level_is_the_one_in_use_and_its_norm_is_level_0s():
    built, images = network(), photos()
    before = outputs(built, images)
    for name, matters in (
        ("output_conv1_aux.0.0.weight", False), ("output_conv2_aux.2.5.bias", False),
        ("output_conv2_aux.0.2.weight", True), ("output_conv1_aux.3.4.weight", True),
        ("output_conv2_aux.3.0.weight", True),
    ):  # fmt: skip
        changed = network()
        with torch.no_grad():
            parameter = changed.get_parameter(f"head.scratch.{name}")
            parameter.add_(torch.randn_like(parameter))
        assert (largest_difference(before, outputs(changed, images)) > 1e-3) == matters, name


def test_the_ray_neck_has_no_activations():
    assert [type(module) for module in heads.neck(8)] == [nn.Conv2d] * 5


def test_views_in_chunks_give_the_same_maps(monkeypatch):
    built, images = network(), photos(5)
    whole = outputs(built, images)
    monkeypatch.setattr(dpt, "FRAMES_AT_ONCE", 2)
    assert largest_difference(whole, outputs(built, images)) < 1e-5


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_heads_and_the_camera_encoder_stay_in_fp32_under_autocast(precision):
    built, images = network(), photos()
    with torch.no_grad(), torch.autocast("cpu", precision):
        found, token = built(images, rays=True), built.camera_condition(cameras(), 42, 56)
        read = built.read(images, None, None, "first")
    with torch.no_grad():
        expected = built.head([layer.float() for layer in read.patches], 42, 56, True)
        code = built.cam_dec(read.camera_tokens[-1].float())
        assert torch.equal(token, built.camera_condition(cameras(), 42, 56))
    assert found["depth"].dtype == torch.float32 and largest_difference(expected, found) == 0
    assert torch.equal(found["pose_code"], code)


def test_every_parameter_but_the_unused_ray_levels_gets_a_gradient():
    built = network()
    for known in (None, cameras()):
        found = built(photos(), known=known, rays=True)
        sum(found[name].sum() for name in ("depth", "depth_conf", "ray", "ray_conf", "pose_code")).backward()
    idle = {name for name, parameter in built.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    names = [name for name, _ in built.named_parameters() if re.search(r"output_conv._aux\.[012]\.", name)]
    assert idle == {name for name in names if "output_conv2_aux.0.2." not in name} and len(idle) == 3 * (10 + 4)


def trained_gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
    built = network().requires_grad_(False)
    built.gradient_checkpointing = checkpointing
    targets = r".*(qkv|fc2|projects\.\d|output_conv2\.0)"
    peft.get_peft_model(built, peft.LoraConfig(r=2, lora_dropout=0.0, init_lora_weights=False, target_modules=targets))
    found = built(photos())
    (found["depth"].sum() + found["depth_conf"].sum() + found["pose_enc"].sum()).backward()
    return {name: parameter.grad for name, parameter in built.named_parameters() if parameter.requires_grad}


def test_checkpointing_gives_the_same_gradients():
    plain, recomputed = (
        {name: gradient for name, gradient in trained_gradients(on).items() if not name.startswith("cam_enc")}
        for on in (False, True)
    )
    refuse_other_gradients(plain, recomputed)


def test_checkpointing_keeps_less():
    with_it, without = (kept_bytes(network, photos(), on) for on in (True, False))
    assert with_it < without / 3


@pytest.mark.parametrize("changed, named", [
    ({"embed_dim": 36}, "embed_dim"), ({"img_size": 500}, "img_size"), ({"out_layers": [5, 7, 9, 12]}, "out_layers"),
    ({"out_layers": [7, 5, 9, 11]}, "out_layers"), ({"dpt_out_channels": [8, 12, 16]}, "dpt_out_channels"),
    ({"dpt_features": 20}, "dpt_features"), ({"alt_start": 12}, "alt_start"), ({"alt_start": 0}, "alt_start"),
])  # fmt: skip
def test_impossible_sizes_are_refused_by_name(changed, named):
    with pytest.raises(Stop, match=named):
        ModelSize(**LITTLE | changed)
