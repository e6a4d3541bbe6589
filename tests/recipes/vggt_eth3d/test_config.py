"""Presets, and what no setting may be: nothing that is impossible is accepted in step 1."""

from dataclasses import fields

import pytest

from lib.core.config import from_dotted, leaves
from lib.core.errors import Stop
from lib.recipes.vggt_eth3d import costs
from lib.recipes.vggt_eth3d.config import DEMO, PRESETS, TINY, Config
from lib.recipes.vggt_eth3d.sections import LossConfig
from lib.recipes.vggt_eth3d.size import ModelSize
from lib.scenes.sections import LAYERS

GUIDE = [("strategy_a", "a", 2), ("strategy_b", "b", 2), ("strategy_c", "c", 3), ("head_full", "head_full", 2)]
NAN, INF = float("nan"), float("inf")
OWN = {"model.weights": "own.safetensors"}


@pytest.mark.parametrize("preset, strategy, camera_weight", GUIDE)
def test_presets_carry_the_numbers_of_the_guide(preset, strategy, camera_weight):
    config = from_dotted(Config, PRESETS[preset])
    assert (config.lora.strategy, config.lora.rank, config.lora.alpha, config.lora.dropout) == (strategy, 16, 32, 0.1)
    train = config.train
    assert (train.lr, train.weight_decay, train.warmup_ratio, train.epochs) == (1e-4, 0.01, 0.1, 20)
    assert (config.loss.camera_weight, config.loss.depth_weight) == (camera_weight, 5)


@pytest.mark.parametrize("preset", PRESETS)
def test_demo_composes_with_every_preset_and_changes_only_what_it_may(preset):
    allowed = ("model.", "data.", "train.epochs", "train.lr", "train.micro_batch", "train.global_batch")
    allowed += ("cache.policy",)  # what is kept would depend on the machine
    assert all(key.startswith(allowed) for key in DEMO | TINY)
    assert from_dotted(Config, PRESETS[preset] | DEMO | TINY).lora.rank == 16


def test_five_scenes_of_the_demo_are_tested_beside_those_that_are_trained_on():
    """Two of those that train may choose the checkpoint."""
    assert len(DEMO["data.val_scenes"]) >= 5 and len(DEMO["data.scenes"]) >= 8


# ---------------------------------------------------------------------------------------------- bounds

COUNT, SHARE, WEIGHT, RATIO = (0, -1), (-0.1, 1.1, NAN), (-1.0, NAN, INF), (0.0, -1.0, 100.0, NAN)
IMPOSSIBLE = {
    "model.weights": ("", " ", "scratch", "none"), "model.revision": ("", " "), "model.base_precision": ("fp16", ""),
    "model.image_width_px": (100, 0, -14), "model.image_height_px": (100, 0, -14),
    "model.img_size": (520, 0, -14), "model.patch_size": COUNT, "model.embed_dim": (1000, 0, -64),
    "model.depth": (*COUNT, 4), "model.num_heads": (*COUNT, 3), "model.num_register_tokens": COUNT,
    "model.mlp_ratio": RATIO, "model.patch_embed_mlp_ratio": RATIO, "model.camera_mlp_ratio": RATIO,
    "model.rope_base": (0.0, -100.0, NAN, INF), "model.layer_scale": WEIGHT,
    "model.patch_embed_depth": COUNT, "model.patch_embed_num_heads": (*COUNT, 3),
    "model.camera_trunk_depth": COUNT, "model.camera_num_heads": (*COUNT, 3), "model.camera_iterations": COUNT,
    "model.dpt_features": (*COUNT, 12), "model.dpt_out_channels": ([], [256, 512, 1024], [256, 512, 1024, 1023]),
    "model.dpt_intermediate_layers": ([], [4, 11, 17], [4, 11, 17, 24], [4, 11, 11, 23], [-1, 4, 11, 17]),
    "model.dpt_output_hidden": COUNT, "model.camera_head": (False,), "model.depth_head": (False,),
    "data.scenes": ([], ["a", "a"], ["a/b"], [""], [".."], ["courtyard"], [" a"]),
    "data.val_scenes": (["facade"], ["a", "a"], ["a/b"], [""]),
    "data.train_val_split": (0.0, 1.0, -1.0, NAN), "data.gap_covisibility": SHARE,
    "data.unit": ("", "km", "metres"), "data.depth_scale": WEIGHT, "data.frames": ([8, 2], [0, 2], [2], [1, 2, 3], []),
    "data.sparse_models": ("", "all"),
    "data.covisibility": ([0.5, 0.2], [0.5, 0.5], [-0.1, 1.0], [0.0, 1.1], [NAN, 1.0], [0.5]),
    "data.samples_per_epoch": COUNT, "data.distinct_epochs": (-1,), "data.colour_jitter": SHARE,
    "data.scale_jitter": (-0.1, 1.0, NAN), "data.stand_in_views": (2, 0, -1),
    **{f"loss.{name}": WEIGHT for name in vars(LossConfig()) if name.endswith("_weight")},
    "loss.camera_norm": ("", "l3"), "loss.iteration_decay": (0.0, -0.6, 1.1, NAN),
    "loss.depth_gradient": ("normal", "x"), "loss.point_gradient": ("x",),
    "loss.confidence": ("", "floored"),
    "loss.confidence_error": (0.0, -1.0, NAN, INF), "loss.confidence_reward": WEIGHT,
    "loss.valid_range": (98.0, 0.0, -2.0, NAN), "loss.min_valid_px": COUNT,
    "lora.rank": COUNT, "lora.alpha": (-1.0,), "lora.dropout": (-0.1, 1.0, NAN), "lora.strategy": ("d", ""),
    "lora.conv_dropout": ("", "row"), "lora.layers": ([], ["qv"]),
    "lora.targets": (["("], ["nothing.like.it"], ["depth_head.resize_layers.0"]),
    "lora.full": (["("], ["depth_head.*"]), "lora.peft": ({"dora": True},),
    "eval.batch": (0, 2), "eval.lengths": ([], [0], [1, 1], [-1]), "eval.sequences_per_scene": COUNT,
}  # fmt: skip
FREE = {  # whatever they are is possible: paths, and switches of which both ways are
    "model.qk_norm", "model.point_head", "data.root", "data.region_masks", "data.drop_obs_masks", "data.stand_in",
}  # fmt: skip
BESIDE = {  # what must be set too, so that the value itself is refused
    "loss.point_weight": {"model.point_head": True}, "loss.region_weight": {"data.region_masks": "windows"},
}  # fmt: skip


@pytest.mark.parametrize("key, value", [(key, value) for key, values in IMPOSSIBLE.items() for value in values])
def test_impossible_values_are_refused_by_name(key, value):
    size = OWN if key.startswith("model.") and key != "model.weights" else {}
    with pytest.raises(Stop, match=key.replace(".", r"\.")):
        from_dotted(Config, size | BESIDE.get(key, {}) | {key: value})


def test_every_setting_of_the_recipe_has_its_bounds():
    own = {key for key in leaves(Config) if key.startswith(("model.", "data.", "loss.", "lora."))}
    assert own - FREE == {key for key in IMPOSSIBLE if not key.startswith("eval.")}


TOGETHER = [  # settings that are possible alone, and what the sentence must name
    ({"loss.region_weight": 2.0}, "data.region_masks"),
    ({"loss.point_weight": 1.0}, "model.point_head"),
    ({"loss.camera_weight": 0.0, "loss.depth_weight": 0.0}, "nothing would be learned"),
    ({"lora.strategy": "a", "loss.depth_weight": 0.0}, "loss.depth_weight"),
    ({"lora.strategy": "a", "lora.layers": ["qkv"]}, "lora.layers"),
    ({"lora.strategy": "head_full", "lora.layers": ["projects"]}, "lora.layers"),
    ({"lora.targets": ["depth_head.scratch.*"], "lora.layers": ["qkv"]}, "lora.layers"),
    ({"train.micro_batch": 2, "train.global_batch": 2}, "data.frames"),
    ({"model.base_precision": "bf16", "train.precision": "fp32"}, "train.precision"),
    (DEMO | {"data.frames": [11, 12], "train.micro_batch": 1}, "data.stand_in_views"),
    (DEMO | {"eval.lengths": [11]}, "data.stand_in_views"),
]


@pytest.mark.parametrize("settings, named", TOGETHER)
def test_impossible_combinations_are_refused_by_name(settings, named):
    with pytest.raises(Stop, match=named):
        from_dotted(Config, settings)


# ---------------------------------------------------------------------------------------------- weights and sizes


@pytest.mark.parametrize("name", [f.name for f in fields(ModelSize) if f.name not in ("camera_head", "depth_head")])
@pytest.mark.parametrize("settings", [{}, DEMO], ids=["published", "demo"])
def test_sizes_that_the_named_weights_do_not_have_are_refused(name, settings):
    before = getattr(from_dotted(Config, settings).model, name)
    other = [*before[:-1], 2 * before[-1]] if isinstance(before, list) else 2 * before
    other = {"patch_size": 7, "qk_norm": False, "point_head": True}.get(name, other)
    if name == "point_head" and not settings:
        assert from_dotted(Config, {"model.point_head": True}).model.point_head  # the published file has one
        return
    with pytest.raises(Stop, match=rf"model\.{name}"):
        from_dotted(Config, settings | {f"model.{name}": other})


def test_the_guides_remedy_against_out_of_memory_names_the_setting_that_does_it():
    with pytest.raises(Stop, match=r"model\.img_size=420") as stop:
        from_dotted(Config, {"model.img_size": 420})
    assert "model.image_width_px" in stop.value.command
    assert from_dotted(Config, {"model.image_width_px": 420, "model.image_height_px": 280}).model.img_size == 518


def test_own_weights_may_have_any_size():
    config = from_dotted(Config, DEMO | OWN | {"model.embed_dim": 64})
    assert config.model.embed_dim == 64


# ---------------------------------------------------------------------------------------------- adapted layers


@pytest.mark.parametrize("strategy, blocks", [("a", 0), ("b", 4), ("c", 8)])
@pytest.mark.parametrize("layers", [["qkv"], ["qkv", "proj"], ["fc1"], ["fc1", "fc2", "scratch"], ["projects"], LAYERS])
def test_adapters_sit_on_the_named_kinds_of_layers_of_the_strategy(strategy, blocks, layers):
    named = [layer for layer in layers if layer in ("projects", "scratch") or blocks]
    settings = DEMO | {"lora.strategy": strategy, "lora.layers": list(layers)}
    if not named:
        with pytest.raises(Stop, match=r"lora\.layers"):
            from_dotted(Config, settings)
        return
    config = from_dotted(Config, settings)
    found = costs.adapted(costs.tensors(config.model), costs.lora_targets(config))
    kinds = {next(part for part in name.split(".") if part in LAYERS) for name in found}
    assert kinds == set(named)
    per_kind = [sum(f".{kind}.weight" in name and "aggregator" in name for name in found) for kind in named]
    assert all(count == (blocks if kind in LAYERS[:4] else 0) for kind, count in zip(named, per_kind, strict=True))
