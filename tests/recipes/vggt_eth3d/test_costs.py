"""The closed forms against the network on the meta device, PEFT's own injection, and what autograd really keeps."""

import hashlib
import json
import re
from math import prod
from pathlib import Path

import peft
import pytest
import torch

from lib.core import config
from lib.core.footprint import card_bytes
from lib.core.records import LoraSpec, Parts
from lib.network import adapters
from lib.recipes.vggt_eth3d import costs
from lib.recipes.vggt_eth3d.config import DEMO, PRESETS, Config
from lib.recipes.vggt_eth3d.model import VGGT
from lib.recipes.vggt_eth3d.size import ModelSize
from lib.scenes import memory
from lib.scenes.layers import Block

# Beside the checkout, where there is one.
PUBLISHED_KEYS = Path(__file__).resolve().parents[4] / "shared" / "facts" / "vggt_keys.json"
# sha256 over "name [shape]" lines, sorted, of the published checkpoint without its track head (1 403 of 1 797 tensors).
PUBLISHED = "ab2b029471a2b701fe423dd21aa66d3b7f67d4415c25c494c6d4d32368d9f6e0"


def settings(preset: str = "strategy_b", **changed) -> Config:
    return config.from_dotted(
        Config, PRESETS[preset] | {key.replace("__", "."): value for key, value in changed.items()}
    )


def demo(preset: str, **changed) -> Config:
    return settings(preset, **DEMO, **changed)


def on_meta(size: ModelSize) -> VGGT:
    with torch.device("meta"):
        return VGGT(size)


def lines(shapes: dict) -> str:
    return "\n".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))


@pytest.mark.parametrize("size", [
    ModelSize(), ModelSize(point_head=True), demo("strategy_b").model,
    ModelSize(camera_head=False, qk_norm=False, mlp_ratio=2.0),
])  # fmt: skip
def test_names_and_shapes_are_those_of_the_network(size):
    assert costs.tensors(size) == {name: tuple(tensor.shape) for name, tensor in on_meta(size).state_dict().items()}


def test_full_size_has_the_published_keys_and_counts():
    with_points, trained = costs.tensors(ModelSize(point_head=True)), costs.tensors(ModelSize())
    assert (len(with_points), sum(map(prod, with_points.values()))) == (1403, 1_190_596_120)
    assert (len(trained), sum(map(prod, trained.values()))) == (1341, 1_157_941_492)
    assert hashlib.sha256(lines(with_points).encode()).hexdigest() == PUBLISHED
    if PUBLISHED_KEYS.exists():
        published = json.loads(PUBLISHED_KEYS.read_text())["keys"]
        built = {name: shape for name, shape in published.items() if not name.startswith("track_head.")}
        assert lines(with_points) == lines(built)


@pytest.mark.parametrize("preset, per_rank", [("strategy_a", 78_914), ("strategy_b", 472_130), ("strategy_c", 996_418)])
def test_trainable_parameters_are_those_of_the_table(preset, per_rank):
    for rank in (8, 16, 64):
        assert costs.trainable(settings(preset, lora__rank=rank)) == per_rank * rank
    assert costs.trainable(settings("head_full")) == 32_654_562


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("full_size", [True, False])
def test_trainable_parameters_are_what_peft_injects(preset, full_size):
    config = settings(preset) if full_size else demo(preset, lora__full=[r"vggt\.depth_head\.norm\..*"])
    network = on_meta(config.model).requires_grad_(False)
    if targets := costs.lora_targets(config):
        names = adapters.matched(network, LoraSpec(targets, config.lora.rank, config.lora.alpha), "vggt")
        peft.get_peft_model(network, peft.LoraConfig(r=config.lora.rank, target_modules=names))
    adapters.open_fully(Parts({costs.MODULE: network}, full=costs.full_tensors(config)))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == costs.trainable(config)


def test_strategies_follow_the_depth():
    found = {preset: costs.frozen_blocks(settings(preset)) for preset in PRESETS}
    assert found == {"strategy_a": 24, "strategy_b": 12, "strategy_c": 0, "head_full": 24}
    assert costs.frozen_blocks(demo("strategy_b")) == 2


@pytest.mark.parametrize("changed, blocks", [
    ({"lora__targets": [r"aggregator\.global_blocks\.7\.attn\.qkv"]}, 7),
    ({"lora__full": [r"vggt\.aggregator\.camera_token"]}, 0),
    ({"lora__targets": [r"aggregator\.patch_embed\..*\.qkv"]}, None),
])  # fmt: skip
def test_the_frozen_front_ends_before_the_first_trained_tensor(changed, blocks):
    assert costs.frozen_blocks(settings("strategy_b", **changed)) == blocks


@pytest.mark.parametrize("blocks, inside", [(0, 344), (12, 344 + 2 + 2 * 12 * 18)])
def test_the_frozen_front_is_what_its_features_run_through(blocks, inside):
    names = [name for name in costs.tensors(ModelSize()) if re.fullmatch(costs.frozen_front(blocks), f"vggt.{name}")]
    assert len(names) == inside
    assert not any(re.search(r"_blocks\.(1[2-9]|2\d)\.", name) for name in names if "patch_embed" not in name)


def kept_bytes(module: torch.nn.Module, function, *inputs) -> int:
    """What autograd keeps for the backward pass of `function`, without the parameters of its module."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # holds the memory, or another tensor could take its place

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*inputs)
    return sum(storage.nbytes() for place, storage in kept.items() if place not in parameters)


def test_the_memory_of_a_block_is_what_autograd_keeps():
    block = Block(128, 4, 4.0, 0.01, qk_norm=True).requires_grad_(False)
    peft.get_peft_model(block, peft.LoraConfig(r=1, target_modules=rf"{costs.LINEARS}"))
    tokens = torch.zeros(2, 100, 128, requires_grad=True)
    assert memory.block_bytes(128, 4.0, 200, 4, 0.0, True) == pytest.approx(kept_bytes(block, block, tokens), rel=0.1)


def test_the_memory_of_a_dense_frame_is_what_autograd_keeps():
    config = settings(
        "strategy_a",
        model__weights="own.safetensors",
        model__image_width_px=140,
        model__image_height_px=98,
        model__dpt_features=64,
        model__embed_dim=64,
        model__num_heads=4,
        model__dpt_out_channels=[64, 64, 128, 128],
        lora__dropout=0.0,
        lora__rank=1,
    )
    network = VGGT(config.model).requires_grad_(False)
    names = adapters.matched(network, LoraSpec(costs.lora_targets(config), 1, 1.0), "vggt")
    peft.get_peft_model(network, peft.LoraConfig(r=1, target_modules=names))
    layers = [torch.zeros(1, 1, 70, 128, requires_grad=True) for _ in range(4)]
    kept = kept_bytes(network, network.depth_head, layers, 98, 140)
    assert memory.dense_frame_bytes(config.model, 140 * 98, False) == pytest.approx(kept, rel=0.1)


def test_checkpointing_and_strategy_lower_the_estimate():
    total = {preset: card_bytes(costs.footprint(settings(preset))) for preset in PRESETS}
    assert total["strategy_a"] < total["strategy_b"] < total["strategy_c"]
    checkpointed = costs.footprint(settings("strategy_c", train__gradient_checkpointing=True))
    assert card_bytes(checkpointed) < total["strategy_c"] / 3
