"""Settings that contradict one another end with the name of the key."""

import pytest

from lib import recipes
from lib.core import config as core
from lib.core.config import compose
from lib.core.errors import Stop
from lib.recipes import llava_map
from lib.recipes.llava_map import sources

RECIPE = recipes.load("llava_map")


@pytest.mark.parametrize("preset", list(llava_map.PRESETS))
@pytest.mark.parametrize("demo", [False, True])
def test_every_preset_composes_and_has_a_plan(preset, demo):
    config, _ = compose(RECIPE, preset, demo, "full", {})
    plan = RECIPE.plan(config)
    assert (
        0 < plan.trainable < plan.parameters
        and plan.footprint.trained + plan.footprint.trained_in_blocks == plan.trainable
    )
    assert preset in llava_map.EXPECTED


def test_demo_changes_only_what_a_demo_may():
    allowed = ("model.", "data.", "train.epochs", "train.lr", "train.micro_batch", "train.global_batch")
    assert all(key.startswith(allowed) for key in llava_map.DEMO | llava_map.TINY)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model.llm": "none"}, "model.scene_interaction"),
        ({"model.llm": "none", "model.scene_interaction": True, "train.stages": ["stage2", "stage3"]}, "train.stages"),
        ({"train.stages": ["stage4"]}, "train.stages"),
        ({"data.version": "v1.0"}, "data.version"),
        ({"model.encoder": "resnet18"}, "resnet50"),
        ({"model.decoder_width": 100}, "model.decoder_width"),
        ({"loss.orders": "v0"}, "loss.orders"),
        ({"data.geographic_share": 1.5}, "data.geographic_share"),
    ],
)
def test_impossible_settings_are_named(settings, named):
    with pytest.raises(Stop, match=named.replace(".", r"\.")):
        compose(RECIPE, "stage2", False, "full", settings)


NAN = float("nan")
# Every setting of this recipe -> values that step 1 refuses by its name, and the edges that it takes.
BOUNDS = {
    "model.encoder": (("", "resnet18"), ("clip_l14_336",)),
    "model.qformer": (("", "none"), ("scratch",)),
    "model.llm": (("", " "), ("someone/model",)),
    "model.llm_revision": (("main", "0123", "G" * 40), ("0" * 40, "")),
    "model.llm_bits": ((0, 8, 32), (4, 16)),
    "model.tokens_per_view": ((0, -1), (1,)),
    "model.prompt": (("", "  "), ("Map.",)),
    "model.instances": ((0, -5), (1,)),
    "model.points": ((0, 1), (2,)),
    "model.decoder_width": ((0, -8, 100, 12), (8, 256)),
    "model.decoder_layers": ((0, -1), (1,)),
    "model.decoder_heads": ((0, -4, 5), (1, 8)),
    "data.version": (("", "v1.0", "v1.0-test"), ("v1.0-mini",)),
    "data.split": (("", "random"), ("geographic", "newsplit")),
    "data.geographic_share": ((0, 1, -0.1, 1.5, NAN), (0.001, 0.9)),
    "data.geographic_gap_m": ((-1, NAN, float("inf")), (0,)),
    "data.width_px": ((0, -1, 31), (32,)),  # one token of the default encoder
    "data.height_px": ((0, -1, 31), (32,)),
    "data.colour_jitter": ((-0.1, 1.1, NAN), (0, 1)),
    "data.stand_in_scenes": ((0, -1, 701), (1, 700)),
    "data.stand_in_val_scenes": ((0, -1, 151), (1, 150)),
    "data.stand_in_frames": ((0, -1), (1,)),
    "data.overlays": ((-1,), (0,)),
    "loss.cls": ((-1, NAN, float("inf")), (0,)),
    "loss.pts": ((-1, NAN), (0,)),
    "loss.dir": ((-1, NAN), (0,)),
    "loss.orders": (("", "v0"), ("v2",)),
    "lora.targets": (([], [""], ["q_proj", "("]), (["down_proj"],)),
    "train.stages": (([], ["stage4"], ["stage3", "stage2"]), (["stage3"],)),
    "train.lr_share_qformer": ((-0.1, NAN, 1e9), (0,)),
    "train.lr_llm": ((-1e-4, NAN, 1e9), (0,)),
    "train.stage3": (("", "half"), ("full",)),
    "train.stage3_epochs": ((0, -1), (1,)),
    "data.region": (("", "30x60"), ("100x50",)),
    "eval.compared_points": ((0, 50), (200,)),
    "eval.detections": ((0, -1), (1,)),
    "eval.guide_threshold": ((-0.1, 1.1, NAN), (0, 1)),
}
EITHER_WAY = {
    "eval.ablations",
    "model.scene_interaction",
    "data.flip",
    "data.centreline",
    "data.stand_in",
    "data.root",
}  # true or false; empty: the default


def own_settings() -> set[str]:
    """The dotted keys that this recipe adds to those of every recipe."""
    shared = {"train": core.TrainConfig, "eval": core.EvalConfig, "lora": core.LoraConfig, "cache": core.CacheConfig,
              "session": core.SessionConfig}  # fmt: skip
    every = set(core.leaves(llava_map.Config))
    return every - {f"{section}.{key}" for section, kind in shared.items() for key in core.leaves(kind)}


def test_every_setting_has_its_bounds_in_the_table():
    assert set(BOUNDS) | EITHER_WAY == own_settings()
    assert not set(BOUNDS) & EITHER_WAY


@pytest.mark.parametrize(("key", "value"), [(key, bad) for key, (refused, _) in BOUNDS.items() for bad in refused])
def test_a_value_out_of_bounds_is_refused_by_its_name(key, value):
    with pytest.raises(Stop, match=key.replace(".", r"\.")):
        compose(RECIPE, "stage2", False, "full", {key: value})


@pytest.mark.parametrize(("key", "value"), [(key, edge) for key, (_, taken) in BOUNDS.items() for edge in taken])
def test_the_edges_are_taken(key, value):
    settings = {"model.decoder_heads": 1} if key == "model.decoder_width" else {}
    compose(RECIPE, "stage2", False, "full", settings | {key: value})


@pytest.mark.parametrize(
    ("preset", "settings", "named"),
    [
        ("stage3_full", {"model.llm_bits": 4}, "model.llm_bits"),
        ("stage2", {"model.llm_bits": 4, "train.shard": "on"}, "model.llm_bits=4 cannot be spread over processes"),
        ("stage2", {"model.llm_bits": 4, "lora.full": [r"llm\.norm\..*"]}, "model.llm_bits"),
        ("stage2", {"lora.full": ["("]}, "lora.full"),
        ("stage2", {"loss.cls": 0, "loss.pts": 0, "loss.dir": 0}, "loss.dir"),
        ("stage2", {"model.encoder": "clip_l14_336", "data.width_px": 13}, "data.width_px"),
    ],
)
def test_settings_that_do_not_go_together_are_named(preset, settings, named):
    with pytest.raises(Stop, match=named.replace(".", r"\.")):
        compose(RECIPE, preset, False, "full", settings)
    if preset == "stage3_full":  # adapters on 4 bits, and 4 bits that nothing trains, are fine
        compose(RECIPE, "stage3_lora", False, "full", settings)
        compose(RECIPE, preset, False, "full", settings | {"train.stages": ["stage2"]})


@pytest.mark.parametrize("name", ["llama-3b", "/no/such/folder", "./llama", "a/b/c", "../x"])
def test_a_language_model_that_is_nowhere_is_named(name):
    settings = {"model.llm": name, "model.llm_revision": "0" * 40}
    with pytest.raises(Stop, match="neither a folder nor an id"):
        sources.assets(compose(RECIPE, "stage2", False, "full", settings)[0])


def test_foreign_language_model_needs_a_revision():
    config, _ = compose(RECIPE, "stage2", False, "full", {"model.llm": "someone/llama-3b"})
    with pytest.raises(Stop, match="no revision pins it"):
        sources.assets(config)


def test_nothing_licensed_is_fetched():
    config, _ = compose(RECIPE, "stage2", False, "full", {})
    kinds = {asset.name: asset.kind for asset in sources.assets(config)}
    llm = "llm-lmsys--vicuna-7b-v1.5"
    assert kinds == {"nuscenes": "licensed", "encoder": "hub", "blip2": "hub", llm: "hub"}


@pytest.mark.parametrize("demo", [False, True])
def test_a_plan_says_what_it_does_not_know(demo):
    """Once it showed "parameters 1, 0.00 GB" for a language model whose config.json is on the hub."""
    settings = {"model.llm": "Qwen/Qwen2.5-0.5B", "model.llm_revision": "0" * 40}
    known = RECIPE.plan(
        compose(RECIPE, "stage2", demo, "full", {"model.llm": "none", "model.scene_interaction": True})[0]
    )
    plan = RECIPE.plan(compose(RECIPE, "stage2", demo, "full", settings)[0])
    assert "Qwen/Qwen2.5-0.5B" in plan.needs[0] and "not known yet" in plan.needs[0]
    assert 1000 < plan.trainable < plan.parameters < known.parameters
    assert plan.footprint is plan.pace is None


def test_a_target_that_is_no_expression_is_refused_where_it_is_declared():
    from lib.recipes.llava_map.config import LoraConfig

    with pytest.raises(Stop, match=r"lora\.targets='\(' is not a valid regular expression"):
        LoraConfig(targets=["q_proj", "("])
