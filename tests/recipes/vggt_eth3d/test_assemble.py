"""The network of a run, from the demo's shipped base."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.core.errors import Stop
from lib.core.records import Manifest, Record
from lib.network import adapters
from lib.recipes.vggt_eth3d import assemble, costs
from lib.scenes.export import export
from lib.scenes.stages import stages
from tests.scenes.conftest import STAGE

BASE = Path(assemble.__file__).parent / "demo"
IMAGES = torch.rand(1, 2, 3, 42, 56, generator=torch.Generator().manual_seed(0))
BF16 = {"model__base_precision": "bf16", "train__precision": "bf16"}


def with_random_adapters(config):
    """(parts, wrapped) whose adapters already do something."""
    parts = assemble.build(config, STAGE, {"base": BASE})
    wrapped = adapters.attach(parts)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in adapters.trainable(parts).items():
            if ".lora_B." in name:
                tensor.copy_(0.02 * torch.randn(tensor.shape, generator=draw))
    return parts, wrapped


def trained(parts) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The depth under bf16 autocast, and the gradient of its sum for every trained tensor."""
    with torch.autocast("cpu", torch.bfloat16):
        depth = parts.modules["vggt"](IMAGES)["depth"]
    depth.sum().backward()
    return depth.detach(), {name: tensor.grad for name, tensor in adapters.trainable(parts).items()}


def test_a_base_held_in_bf16_computes_what_autocast_makes_of_fp32(settings):
    depth, gradients = trained(with_random_adapters(settings())[0])
    held_depth, held_gradients = trained(with_random_adapters(settings(**BF16))[0])
    assert torch.equal(depth, held_depth)
    for name, gradient in gradients.items():
        torch.testing.assert_close(held_gradients[name], gradient, rtol=1e-5, atol=0)


def test_a_base_held_in_bf16_has_adapters_heads_and_tokens_in_fp32(settings):
    parts, _ = with_random_adapters(settings(**BF16))
    named = dict(parts.modules["vggt"].named_parameters())
    half = {
        adapters.plain_name(name).rpartition(".")[0]
        for name, parameter in named.items()
        if parameter.dtype == torch.bfloat16
    }
    layers = {name.rpartition(".")[0] for name in costs.tensors(settings().model)}
    assert all(tensor.dtype == torch.float32 for tensor in adapters.trainable(parts).values())
    assert half == set(filter(costs.in_autocast, layers)) and len(half) == 40
    weights = sum(parameter.nbytes for name, parameter in named.items() if ".lora_" not in name)
    assert weights == sum(costs.held_bytes(settings(**BF16)).values()) < sum(costs.held_bytes(settings()).values())


def test_adapters_on_a_bf16_base_are_merged_in_fp32(settings):
    parts, wrapped = with_random_adapters(settings(**BF16))
    name = "aggregator.frame_blocks.3.attn.qkv"
    layer = parts.modules["vggt"].get_submodule(name)
    a, b = (getattr(layer, f"lora_{side}")["default"].weight.detach().clone() for side in "AB")
    merged = adapters.merge(wrapped)["vggt"].state_dict()
    base = load_file(BASE / "base.safetensors")[f"{name}.weight"].bfloat16().float()
    torch.testing.assert_close(merged[f"{name}.weight"], base + 2 * b @ a, rtol=1e-6, atol=1e-7)  # alpha 32 / rank 16
    assert all(tensor.dtype == torch.float32 for tensor in merged.values())


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_bf16_base_without_mixed_precision_is_refused(settings, precision):
    with pytest.raises(Stop, match=r"add train\.precision=bf16"):
        settings(model__base_precision="bf16", train__precision=precision)


def test_a_bf16_base_with_fully_trained_layers_is_refused(settings):
    with pytest.raises(Stop, match=r"lora\.full trains aggregator\.frame_blocks\.0\.mlp\.fc1"):
        settings(**BF16, lora__full=[r"vggt\.aggregator\.frame_blocks\.0\.mlp\.fc1\..*"])


@pytest.mark.parametrize("strategy", ["a", "b", "c"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_adapter_gets_a_gradient(settings, strategy, checkpointing):
    parts, _ = with_random_adapters(settings(lora__strategy=strategy, train__gradient_checkpointing=checkpointing))
    adapters.set_mode(parts, training=True)
    found = parts.modules["vggt"](IMAGES)
    (found["depth"].sum() + found["depth_conf"].sum() + found["pose_enc"].sum()).backward()
    without = [
        name for name, tensor in adapters.trainable(parts).items() if tensor.grad is None or not tensor.grad.any()
    ]
    assert not without, without[:3]


@pytest.fixture
def base_with_other_heads(tmp_path):
    """The demo's base beside heads that the recipe does not build, as the published file has them."""
    others = {"point_head.norm.weight": torch.ones(4), "track_head.tracker.x.bias": torch.arange(3.0)}
    save_file(load_file(BASE / "base.safetensors") | others, tmp_path / "model.safetensors")
    return tmp_path


def test_heads_that_are_not_built_are_carried_through_to_the_export(settings, base_with_other_heads, tmp_path):
    config = settings(model__weights=str(base_with_other_heads))
    parts = assemble.build(config, STAGE, {"base": base_with_other_heads})
    wrapped = adapters.attach(parts)
    parts.modules |= adapters.merge(wrapped)
    export(config, STAGE, parts, tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (base_with_other_heads, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name].to(after[name].dtype)) for name in before)


def test_a_missing_or_foreign_tensor_stops_the_build(settings, base_with_other_heads):
    path = base_with_other_heads / "model.safetensors"
    tensors = load_file(path)
    tensors["pose_head.weight"] = tensors.pop("camera_head.token_norm.weight")
    save_file(tensors, path)
    with pytest.raises(Stop, match=r"1 missing \(camera_head.token_norm.weight\); 1 unexpected \(pose_head.weight\)"):
        assemble.build(settings(model__weights=str(path)), STAGE, {"base": base_with_other_heads})


def test_the_file_that_was_named_is_loaded_and_not_its_neighbour(settings, tmp_path):
    """Beside it lies another one, under the name that the demo's base has."""
    tensors = load_file(BASE / "base.safetensors")
    save_file(tensors, tmp_path / "base.safetensors")
    tensors["depth_head.norm.bias"] += 1
    save_file(tensors, tmp_path / "tuned.safetensors")
    parts = assemble.build(settings(model__weights=str(tmp_path / "tuned.safetensors")), STAGE, {"base": tmp_path})
    assert parts.source == tmp_path / "tuned.safetensors"
    loaded = parts.modules["vggt"].state_dict()["depth_head.norm.bias"]
    assert torch.equal(loaded, tensors["depth_head.norm.bias"].float())


def test_a_folder_without_weights_stops_the_build(settings, tmp_path):
    with pytest.raises(Stop, match=r"holds no weight file"):
        assemble.build(settings(model__weights=str(tmp_path)), STAGE, {"base": tmp_path})


def test_an_epoch_has_the_samples_of_the_settings(settings, tmp_path):
    config = settings(data__samples_per_epoch=7, train__epochs=3)  # 2 samples a step: 4 steps an epoch
    assert [(stage.name, stage.steps) for stage in stages(config, Manifest([], tmp_path))] == [("adapt", 12)]


@pytest.mark.parametrize("units, kind", [(("m", "m"), "m"), (("m", ""), ""), (("", "m"), ""), ((), "")])
def test_the_stage_is_in_metres_where_all_that_is_held_out_is(settings, tmp_path, units, kind):
    sides = {"train": ""} | dict(zip(("select", "test"), units, strict=False))
    records = [Record(side, side, "", "", split=side, columns={"unit": unit}) for side, unit in sides.items()]
    [stage] = stages(settings(), Manifest(records, tmp_path))
    assert stage.kind == kind


def test_the_objective_updates_every_trained_tensor(settings):
    parts, _ = with_random_adapters(settings())
    [objective] = assemble.objectives(settings(), STAGE)
    [group] = objective.groups
    assert all(re.fullmatch(group.tensors, name) for name in adapters.trainable(parts))
    assert (group.lr, group.weight_decay) == (1e-3, 0.01)


def test_what_is_kept_is_named_by_the_policy(settings):
    """auto offers both fronts, the deeper one only where blocks are frozen; both run through nothing trained."""
    fronts = {}
    for policy in ("auto", "none", "tokens", "blocks"):
        config = settings(cache__policy=policy, data__distinct_epochs=1)
        fronts[policy] = assemble.build(config, STAGE, {"base": BASE}).frozen_features
    assert {policy: front.name for policy, front in fronts.items()} == {
        "auto": "patch tokens", "none": "patch tokens", "tokens": "patch tokens", "blocks": "blocks 0-1",
    }  # fmt: skip
    assert fronts["auto"].deeper.name == "blocks 0-1" and fronts["auto"].deeper.frozen == fronts["blocks"].frozen
    assert fronts["tokens"].deeper is None
    assert assemble.frozen_features(settings(cache__policy="auto", lora__strategy="c"), None).deeper is None


@pytest.mark.parametrize("other, said", [
    ({"data__distinct_epochs": 0}, "with data.distinct_epochs=0 none comes again"),
    ({"data__distinct_epochs": 1, "lora__strategy": "c"}, "lies before the first trained layer"),
])  # fmt: skip
def test_blocks_that_cannot_be_kept_are_refused(settings, other, said):
    with pytest.raises(Stop, match=said):
        settings(cache__policy="blocks", **other)
