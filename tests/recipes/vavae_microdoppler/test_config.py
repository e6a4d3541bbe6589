import dataclasses
import math
import sys
from subprocess import run
from typing import Any

import pytest

from lib.core import config as lib_config
from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler import costs
from lib.recipes.vavae_microdoppler.bounds import BOUNDS
from lib.recipes.vavae_microdoppler.config import Config, DataConfig, DiTConfig, LossConfig, TrainConfig
from lib.recipes.vavae_microdoppler.networks_config import PUBLISHED, ModelConfig
from lib.recipes.vavae_microdoppler.presets import DEMO, PRESETS, TINY

# loss.critic: the demo's critic is minutes old (presets.DEMO says what its full weight costs); train.dit_lr_share and
# train.min_lr_ratio are parts of a rate
ALLOWED_IN_DEMO = (
    "model.", "data.", "train.epochs", "train.lr", "train.micro_batch", "train.global_batch", "loss.critic",
    "train.dit_lr_share", "train.min_lr_ratio",
)  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", [{}, DEMO, DEMO | TINY], ids=["full", "demo", "tiny"])
def test_every_preset_composes_with_the_demo(preset, scale):
    config = from_dotted(Config, PRESETS[preset] | scale)
    assert config.train.stages == from_dotted(Config, PRESETS[preset]).train.stages
    assert (config.model.vf == "none") == (preset == "decoder_only")


def test_the_demo_changes_only_what_it_may():
    assert all(key.startswith(ALLOWED_IN_DEMO) for key in DEMO | TINY)


def test_the_guides_numbers_are_the_defaults():
    train, loss = Config().train, Config().loss
    assert (train.epochs, train.reconstruct_share * 30, train.margin_share * 30) == (30, 15, pytest.approx(10))
    assert (loss.align_vf, loss.reconstruct_vf, loss.distance_margin, loss.cosine_margin) == (0.5, 0.1, 0.25, 0.5)
    assert (train.global_batch, train.micro_batch, train.clip, loss.adaptive_vf) == (16, 8, 0.5, True)


@pytest.mark.parametrize(("settings", "word"), [
    ({"model.image_px": 250}, "not a multiple of 16"), ({"model.image_px": 16}, "too small for the critic"),
    ({"model.norm_groups": 48}, "does not divide"), ({"model.freeze_encoder_layers": 6}, "between 0 and 5"),
    ({"model.vf": "dinov2_bas"}, "dinov2_base"), ({"model.vf": "dinov2_base"}, "fresh_projection"),
    ({"train.stages": ["aling"]}, "did you mean 'align'"), ({"train.stages": ["decoder"]}, "nothing to align"),
    ({"train.stages": ["align", "decoder"]}, "it is alone"), ({"model.weights": ""}, "neither a path"),
    ({"model.teachers": "publishd"}, "model.teachers='publishd' is neither a path"),
    ({"model.weights": "scrach"}, "did you mean 'scratch'"), ({"model.attention": [5]}, "a level that"),
    ({"model.channels": 64}, "model.channels=64 does not fit the weights"), ({"model.weights": "demo"}, "have 96"),
    ({"model.vf_heads": 5, "model.weights": "x/y.pt"}, "model.vf_heads=5 does not divide"),
    ({"model.lpips_widths": [8, 8], "model.weights": "x/y.pt"}, "5 widths"), ({"data.users": ["a", "a"]}, "each once"),
    ({"data.low_m_s": 5.0}, "not above"), ({"data.kind": "iq", "data.prf_hz": 100.0}, "fold after"),
    ({"data.kind": "iq", "data.window_s": 1.0}, "of the transform"), ({"data.layout": "user"}, "did you mean 'users'"),
    ({"data.recording_pattern": "("}, "not a valid regular expression"),
    ({"data.recording_pattern": r"rec\d+"}, "no group named 'recording'"),
    ({"model.weights": "scratch", "model.freeze_encoder_layers": 1}, "keeps random layers"),
    ({"model.weights": "scratch", "train.stages": ["decoder"], "model.vf": "none"}, "a random encoder"),
    ({"model.weights": "scratch", "train.stages": ["dit"]}, "a random encoder"),
])  # fmt: skip
def test_impossible_settings_are_named(settings, word):
    with pytest.raises(Stop, match=word):
        from_dotted(Config, settings)


SECTIONS = {"model": ModelConfig, "data": DataConfig, "loss": LossConfig, "dit": DiTConfig, "train": TrainConfig}


def refused() -> list[tuple[str, Any]]:
    """(key, value) for every end of every interval, and NaN."""
    found: list[tuple[str, Any]] = []
    for section, fields in BOUNDS.items():
        for name, interval in fields.items():
            kind = SECTIONS[section].__dataclass_fields__[name].type
            low, high = (float(end) for end in interval[1:-1].split(","))
            outside = [low - 1 if interval[0] == "[" else low, high + 1 if interval[-1] == "]" else high]
            whole = kind in (int, list[int])
            values = [int(v) if whole else v for v in outside if math.isfinite(v)] + ([] if whole else [math.nan])
            found += [(f"{section}.{name}", [value] if kind == list[int] else value) for value in values]
    return found


@pytest.mark.parametrize(("key", "value"), refused())
def test_a_number_outside_its_interval_is_refused_by_name(key, value):
    with pytest.raises(Stop, match=rf"{key}=.* is impossible: it must be in"):
        from_dotted(Config, {key: value})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_of_the_recipes_own_has_an_interval(section):
    own = [f for f in dataclasses.fields(SECTIONS[section]) if f.name not in dir(lib_config.TrainConfig())]
    numbers = {f.name for f in own if f.type in (int, float, list[int])}
    assert numbers == BOUNDS[section].keys()


def test_a_start_from_scratch_is_described():
    config = from_dotted(Config, {"model.weights": "scratch"})
    assert config.model.source == PUBLISHED
    assert any("plan B): 200 epochs or more; this run has 30" in need for need in costs.plan(config).needs)


def test_the_plan_needs_no_torch():
    code = (
        "import sys; from lib import recipes; r = recipes.load('vavae_microdoppler')\n"
        "c = r.Config(); r.plan(c); r.assets(c)\n"
        "assert not {'torch', 'numpy', 'scipy', 'diffusers'} & set(sys.modules), 'heavy import'"
    )
    done = run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_target_that_is_no_expression_is_refused_where_it_is_declared():
    from lib.recipes.vavae_microdoppler.networks_config import LoraConfig

    with pytest.raises(Stop, match=r"lora\.targets='\(' is not a valid regular expression"):
        LoraConfig(targets=["q_proj", "("])
