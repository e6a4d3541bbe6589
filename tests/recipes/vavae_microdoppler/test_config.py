import sys
from subprocess import run

import pytest

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.config import DEMO, PRESETS, TINY, Config

# loss.critic: the demo's critic is minutes old (config.DEMO says what its full weight costs); train.dit_lr_share is
# part of a rate
ALLOWED_IN_DEMO = (
    "model.", "data.", "train.epochs", "train.lr", "train.micro_batch", "train.global_batch", "loss.critic",
    "train.dit_lr_share",
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
    ({"train.stages": ["align", "decoder"]}, "it is alone"), ({"data.val_share": 1.0}, "between 0 and 1"),
])  # fmt: skip
def test_impossible_settings_are_named(settings, word):
    with pytest.raises(Stop, match=word):
        from_dotted(Config, settings)


def test_the_plan_needs_no_torch():
    code = (
        "import sys; from lib import recipes; r = recipes.load('vavae_microdoppler')\n"
        "c = r.Config(); r.plan(c); r.assets(c)\n"
        "assert not {'torch', 'numpy', 'scipy', 'diffusers'} & set(sys.modules), 'heavy import'"
    )
    done = run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
