import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.vggt_eth3d.config import DEMO, PRESETS, TINY, Config

GUIDE = [("strategy_a", "a", 2), ("strategy_b", "b", 2), ("strategy_c", "c", 3), ("head_full", "head_full", 2)]


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
    assert all(key.startswith(allowed) for key in DEMO | TINY)
    assert from_dotted(Config, PRESETS[preset] | DEMO | TINY).lora.rank == 16


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"data.frames": [8, 2]}, "data.frames"),
        ({"data.covisibility": [0.5, 0.2]}, "data.covisibility"),
        ({"data.scenes": ["facade", "courtyard"]}, "courtyard"),
        ({"data.scenes": []}, "data.scenes"),
        ({"data.scale_jitter": 1.0}, "data.scale_jitter"),
        ({"loss.region_weight": 2.0}, "data.region_masks"),
        ({"data.train_val_split": 1.0}, "data.train_val_split"),
        ({"model.image_width_px": 100}, "model.image_width_px"),
        ({"lora.strategy": "d"}, "lora.strategy"),
        ({"loss.valid_range": 98}, "loss.valid_range"),
        ({"loss.depth_gradient": "normal"}, "loss.depth_gradient"),
        ({"loss.focal_weight": -1.0}, "loss.focal_weight"),
        ({"eval.lengths": []}, "eval.lengths"),
        ({"eval.batch": 2}, "eval.batch"),
        ({"train.micro_batch": 2, "train.global_batch": 2}, "data.frames"),
    ],
)
def test_impossible_values_are_refused_by_name(settings, named):
    with pytest.raises(Stop, match=named):
        from_dotted(Config, settings)
