"""Settings of the stage dit: what it is made of, what is refused, which assets a preset needs."""

from pathlib import Path

import pytest

from lib import recipes
from lib.core import code
from lib.core.config import from_dotted, marked
from lib.core.errors import Stop
from lib.core.records import Manifest, Record
from lib.core.run import SCRIPTS
from lib.recipes.vavae_microdoppler import schedule, sources
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.networks_config import PUBLISHED_DIT
from lib.recipes.vavae_microdoppler.presets import DEMO, PRESETS

SAMPLING = {
    f"dit.{name}" for name in ("guidance", "sampling_steps", "method", "shift", "guidance_start", "guidance_first3")
}


@pytest.mark.parametrize(("settings", "word"), [
    ({"train.stages": ["dit", "align"]}, "must be the last"),
    ({"model.dit_trains": "lora"}, "a trunk that nobody trained"),
    ({"model.dit_patch": 3}, "does not divide the latent's side, 16"), ({"model.dit": "XXL"}, "did you mean 'XL'"),
    ({"dit.label_dropout": 0.0}, "leaves untrained"), ({"dit.method": "eular"}, "did you mean 'euler'"),
    ({"dit.latents": "somewhere"}, "no stage of this run may train"),
    ({"model.dit_width": 130}, "multiple of 4 x heads"), ({"model.dit_heads": 5}, "model.dit_heads=5"),
    ({"model.dit_weights": "published", "train.stages": ["dit"]}, "model.dit=S does not fit the weights published"),
    ({"model.dit_weights": ""}, "neither a path"), ({"lora.full": ["("], "train.stages": ["dit"]}, "not a valid"),
    ({"lora.full": [".*"]}, "which is not in train.stages"),
    ({"lora.full": ["blocks.*"], "train.stages": ["dit"]}, "matches nothing of the stage dit"),
    ({"lora.targets": [r"blocks\..*\.fc1"], "train.stages": ["dit"]}, r"its layers: blocks\.N\.adaLN_modulation"),
    ({"lora.targets": []}, "lora.targets is empty"),
])  # fmt: skip
def test_impossible_settings_are_named(settings, word):
    with pytest.raises(Stop, match=word):
        from_dotted(Config, settings)


@pytest.mark.parametrize(("preset", "scale", "kind", "source"), [
    ("dit_scratch_s", {}, None, None), ("dit_lora", {}, "hub", PUBLISHED_DIT),
    ("dit_frozen", DEMO, "shipped", "lib/recipes/vavae_microdoppler/demo_dit"),
    ("dit_lora", {"model.dit_weights": "mine/dit.pt"}, "folder", "mine"),
    ("three_stages", {"model.dit_weights": "published"}, None, None),
])  # fmt: skip
def test_a_published_network_is_fetched_where_a_preset_starts_from_it(preset, scale, kind, source):
    found = [asset for asset in sources.assets(from_dotted(Config, PRESETS[preset] | scale)) if asset.name == "dit"]
    assert [(asset.kind, asset.source) for asset in found] == ([(kind, source)] if kind else [])


def staged(*names: str, **settings) -> list[tuple[str, int, str, str]]:
    config = from_dotted(Config, {"train.stages": list(names), "train.epochs": 10, "train.global_batch": 16} | settings)
    records = [Record(f"x/{i}", "x/1", "", "", split="train") for i in range(160)]
    made = schedule.stages(config, Manifest(records, Path()))
    assert [s.kind for s in made] == ["dit" if name == "dit" else "autoencoder" for name in names]
    return [(s.name, s.steps, s.init_from, s.after) for s in made]


def test_the_stage_stands_on_the_one_before_and_starts_from_its_own_base():
    assert staged("align", "margin", "dit")[1:] == [("margin", 33, "align", ""), ("dit", 1000, "base", "margin")]
    assert staged("dit") == [("dit", 1000, "base", "")]


def test_a_light_plan_is_the_autoencoders_alone():
    light = staged("align", "dit", **{"train.plan": "light"})
    assert light == [("align", 50, "base", ""), ("dit", 1000, "base", "align")]


def test_other_sampling_needs_another_evaluation_and_no_other_training():
    """What is free may change after a training, which goes on or stays finished; step 5 reads it and is done anew."""
    config, recipe = Config(), recipes.load("vavae_microdoppler")
    trained, scored = (code.of_step(code.REPOSITORY / SCRIPTS[step], recipe) for step in (4, 5))
    later = marked(config, "free") & code.settings_read(scored, config)
    assert SAMPLING | {"eval.inception"} <= later
    shaping = {"dit.latents", "dit.label_dropout", "model.dit_width"}
    assert shaping <= code.settings_read(trained, config) - marked(config, "free")
