"""Names, shapes and counts from closed forms are those of the network, and the published ones."""

import re

import peft
import pytest
import torch

from lib.commands.cost import kept
from lib.core.config import from_dotted
from lib.core.footprint import card_bytes
from lib.core.records import LoraSpec
from lib.network import adapters
from lib.recipes.da3_eth3d import costs
from lib.recipes.da3_eth3d.config import PRESETS, Config
from lib.recipes.da3_eth3d.model import DA3
from lib.recipes.da3_eth3d.size import TRUNK

T4_BYTES = 15e9  # of 16 GB what a process may have


def settings(preset, **overrides):
    return from_dotted(Config, PRESETS[preset] | {key.replace("__", "."): value for key, value in overrides.items()})


@pytest.mark.parametrize("preset, whole, trained", [
    ("small_a", 34_299_463, 335_392), ("small_b", 34_299_463, 925_216), ("small_c", 34_299_463, 1_564_192),
    ("small_head_full", 34_299_463, 2_932_706), ("base_a", 135_366_599, 669_728),
    ("base_b", 135_366_599, 1_849_376), ("base_c", 135_366_599, 3_127_328),
])  # fmt: skip
def test_the_plan_counts_what_is_published_and_what_peft_trains(preset, whole, trained):
    config = settings(preset)
    found = costs.plan(config)
    assert (found.parameters, found.trainable) == (whole, trained)
    with torch.device("meta"):
        network = DA3(config.model).requires_grad_(False)
    names = adapters.matched(network, LoraSpec(costs.lora_targets(config), 16, 32.0), costs.MODULE)
    if names:
        peft.get_peft_model(network, peft.LoraConfig(r=16, target_modules=names), low_cpu_mem_usage=True)
        assert sum(one.numel() for one in network.parameters() if one.requires_grad) == trained


@pytest.mark.parametrize("preset", ["small_b", "base_b"])
def test_names_and_shapes_are_those_of_the_network(preset):
    config = settings(preset)
    with torch.device("meta"):
        stored = {name: tuple(tensor.shape) for name, tensor in DA3(config.model).state_dict().items()}
    assert costs.tensors(config.model) == stored and len(stored) == 437


@pytest.mark.parametrize("preset, trained", [("small_a", 533_136), ("base_a", 1_064_080), ("base_c", 3_521_680)])
def test_the_ray_chain_adds_adapters_at_the_level_that_is_used(preset, trained):
    config = settings(preset, lora__ray=True, loss__ray_weight=1.0)
    assert costs.trainable(config) == trained
    assert not any(costs.is_dead(name) for name in costs.trained_names(config))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_t4_holds_every_preset_without_checkpointing(preset):
    assert card_bytes(costs.footprint(settings(preset, train__precision="fp16"))) < T4_BYTES


@pytest.mark.parametrize("preset, changed, pictures, blocks", [
    ("base_a", {}, True, 12), ("base_b", {}, True, 6), ("base_c", {}, False, 0), ("small_head_full", {}, True, 12),
    ("base_b", {"lora__targets": [rf"{TRUNK}blocks\.4\.attn\.qkv"]}, True, 0),
    ("base_b", {"lora__targets": [rf"{TRUNK}blocks\.3\.attn\.qkv"]}, False, 0),
    ("base_b", {"lora__full": [rf"da3\.{TRUNK}camera_token"]}, True, 0),
    ("base_b", {"lora__full": [r"da3\.cam_enc\..*"]}, True, 6),
    ("base_b", {"lora__full": [r"da3\.cam_enc\..*"], "data__poses": "given"}, True, 0),
    ("base_b", {"model__weights": "own", "model__out_layers": [3, 5, 7, 9]}, False, 0),  # read: one of a picture
])  # fmt: skip
def test_the_front_is_kept_where_none_of_it_is_trained(preset, changed, pictures, blocks):
    config = settings(preset, **changed)
    assert (costs.has_frozen_front(config), costs.frozen_blocks(config)) == (pictures, blocks)


@pytest.mark.parametrize("changed", [{}, {"data__poses": "given"}])
def test_the_front_of_a_sample_runs_through_its_blocks_and_what_their_cameras_come_from(changed):
    config = settings("base_b", **changed)
    names = [name for name in costs.tensors(config.model) if re.fullmatch(costs.frozen_front(config, 6), f"da3.{name}")]
    parts = {re.sub(r"\.\d+\..*", "", name.removeprefix("backbone.pretrained.")) for name in names}
    inputs = {"cls_token", "camera_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "blocks"}
    assert parts - inputs == {name for name in parts if name.startswith("cam_enc")}
    assert parts >= inputs and ("cam_enc.trunk" in parts) == bool(changed)
    assert {int(found[1]) for name in names if (found := re.search(r"blocks\.(\d+)", name))} == set(range(6))


@pytest.mark.parametrize("preset, gigabytes", [("small_b", 2.7), ("base_a", 21.3), ("base_c", 0.0)])
def test_the_plan_says_what_is_kept_of_samples(preset, gigabytes):
    """Five views of 865 tokens; of b block 5, of a all four layers that heads read, of c nothing."""
    config = settings(preset)
    plan = costs.plan(config)
    assert plan.blocks_bytes / 2e9 == pytest.approx(gigabytes / 2, rel=0.02)
    assert ("an epoch of samples takes" in kept(config, plan)) == bool(gigabytes)
