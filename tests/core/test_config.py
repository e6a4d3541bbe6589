"""Settings: what they compose to, and one sentence for every wrong one."""

import dataclasses

import pytest

from lib import recipes
from lib.core import config
from lib.core.errors import Stop
from lib.core.names_elsewhere import FLAGS_ELSEWHERE, NAMES_ELSEWHERE
from tests.conftest import ROOT, TOY


def compose(*words, preset="small", demo=False, scale="full"):
    return config.compose(
        recipes.load(str(TOY)), preset, demo, scale, dict(config.parse_override(word) for word in words)
    )


@pytest.mark.parametrize("pattern, said", [("(", "is not a valid regular expression"), (" ", "holds an empty name")])
def test_what_is_no_pattern_of_names_is_refused_with_its_setting(pattern, said):
    with pytest.raises(Stop, match=rf"lora\.full.* {said}|lora\.full {said}"):
        config.refuse_bad_pattern("lora.full", pattern)


def test_settings_that_ask_for_another_value_are_refused_at_both_borders():
    """A word of the command line, before it is read as YAML; and whatever a run.json or a preset brings."""
    with pytest.raises(Stop, match="holds"):
        config.parse_override("data.noise=${oc.env:HOME}")
    with pytest.raises(Stop, match="holds"):
        config.from_dotted(recipes.load(str(TOY)).Config, {"train.fault": "${oc.env:HOME}"})


def test_defaults_then_preset_then_demo_then_overrides():
    assert compose()[0].train.min_lr_ratio == 0.01  # default
    assert compose()[0].train.epochs == 4  # preset
    assert compose(demo=True)[0].train.epochs == 2
    assert compose(demo=True, scale="tiny")[0].train.epochs == 1
    assert compose("train.epochs=9", demo=True)[0].train.epochs == 9


def test_the_difference_to_the_preset_is_named():
    assert compose()[1] == {}
    assert compose("lora.rank=8", demo=True)[1] == {"lora.rank": 8, "train.epochs": 2}


@pytest.mark.parametrize("word, key, value", [
    ("lora.rank=8", "lora.rank", 8), ("train.lr=1e-3", "train.lr", 1e-3), ("train.lr=2", "train.lr", 2.0),
    ("data.augment=true", "data.augment", True), ("lora.full=[a,b]", "lora.full", ["a", "b"]),
    ("lora.peft.use_rslora=true", "lora.peft", {"use_rslora": True}), ("train.fault=", "train.fault", ""),
    ("train.shard=on", "train.shard", "on"), ("train.shard=off", "train.shard", "off"),
    ("data.augment=on", "data.augment", True),
])  # fmt: skip
def test_values_are_typed(word, key, value):
    found = config.to_dotted(compose(word)[0])[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word, said", [
    ("lora.rnak=8", ("lora.rnak", "did you mean 'lora.rank'", "lora.alpha")),
    ("lora.rank=abc", ("lora.rank", "abc", "int")),
    ("lora.rank=0", ("lora.rank=0", "at least 1")),
    ("lora.rank=2.5", ("lora.rank", "2.5", "int")),
    ("train.precision=bf61", ("train.precision", "did you mean 'bf16'", "fp32")),
    ("train.shard=true", ("train.shard", "auto, off, on")),
    ("train.micro_batch=3", ("train.global_batch=4", "train.micro_batch=3")),
    ("train.micro_batch=0", ("train.micro_batch=0", "at least 1")),
    ("lora.dropout=1", ("lora.dropout=1", "[0, 1)")),
    ("lora.peft.use_rsloar=true", ("use_rsloar", "did you mean 'use_rslora'")),
    ("nonsense", ("'nonsense'", "key=value")),
    ("lora.rank=[", ("lora.rank",)),
])  # fmt: skip
def test_a_wrong_setting_is_one_sentence_with_the_nearest_right_one(word, said):
    with pytest.raises(Stop) as stopped:
        compose(word)
    assert stopped.value.code == 2 and "\n" not in stopped.value.cause
    for part in said:
        assert part in stopped.value.cause


@pytest.mark.parametrize(
    "value", [1e-5, 1e20, True, None, "", "off", "on", "true", "1", "a: b", "it's", [], ["a b", "off", 2], {"a": [1]}]
)
def test_the_text_of_a_value_is_read_as_the_value(value):
    assert config.parse_override(f"some.key={config.value_text(value)}") == ("some.key", value)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(Stop, match="unknown preset 'smal': did you mean 'small'"):
        compose(preset="smal")


def test_a_renamed_setting_is_refused_with_its_new_name():
    with pytest.raises(Stop, match=r"the setting 'train\.checkpointing' is called 'train\.gradient_checkpointing' now"):
        compose("train.checkpointing=true")


def test_every_renamed_setting_is_gone_and_its_new_name_exists():
    settings = {key for name in recipes.RECIPES for key in config.leaves(recipes.load(name).Config)}
    assert not config.RENAMED.keys() & settings
    assert set(config.RENAMED.values()) <= settings


def test_dotted_settings_are_the_inverse_of_the_object():
    made = compose("lora.full=[x]", "lora.peft.use_dora=true")[0]
    assert config.from_dotted(recipes.load(str(TOY)).Config, config.to_dotted(made)) == made


def test_peft_fields_that_we_pass_through_exist_in_the_installed_peft():
    import peft

    known = {f.name for f in dataclasses.fields(peft.LoraConfig)}
    assert set(config.PEFT_FIELDS) <= known, set(config.PEFT_FIELDS) - known


@pytest.mark.parametrize(("text", "value"), [
    ("[007,010,1.10,no,2020-01-01,1_0,1:30]", ["007", "010", "1.10", "no", "2020-01-01", "1_0", "1:30"]),
    ("[8,-3,0.5,true,null]", [8, -3, 0.5, True, None]), ("1.0e-05", 1e-05), ("~/x", "~/x"),
])  # fmt: skip
def test_names_are_taken_as_they_are_written(text, value):
    assert config.parse_override(f"data.scenes={text}") == ("data.scenes", value)


def test_a_number_with_zeros_in_front_is_decimal():
    assert compose("train.epochs=010")[0].train.epochs == 10
    for text in ("train.epochs=0x10", "train.epochs=1:30"):
        with pytest.raises(Stop, match="is not an int"):
            compose(text)


@pytest.mark.parametrize("text", ["lora.full=[[a]]", 'lora.full=["a\\0"]', 'train.fault="\\ud800"', "train.epochs=[1]"])
def test_what_is_no_text_or_a_list_of_lists_is_refused(text):
    with pytest.raises(Stop, match=r"holds what is no text|is not a"):
        compose(text)


@pytest.mark.parametrize("field", [
    "use_rslora=off", "use_rslora=no", "use_dora=2", "bias=foo", "init_lora_weights=nonsense", "rank_pattern=3",
    "rank_pattern={a: -1}", "alpha_pattern={a: zero}", "alpha_pattern={'(': 1}", "layers_to_transform=a",
    "exclude_modules=(", "qalora_group_size=x",
])  # fmt: skip
def test_a_field_of_peft_that_peft_would_misread_is_refused(field):
    with pytest.raises(Stop, match=rf"lora.peft.{field.partition('=')[0]}=.* is impossible: it is "):
        compose(f"lora.peft.{field}")


@pytest.mark.parametrize("field", [
    "use_rslora=false", "bias=lora_only", "init_lora_weights=pissa_niter_4", "rank_pattern={qkv: 4}",
    "alpha_pattern={a: 1.5}", "layers_to_transform=[0,2]", "exclude_modules=a.*b", "layers_pattern=[a,b]",
])  # fmt: skip
def test_a_field_of_peft_that_means_something_is_passed_through(field):
    assert field.partition("=")[0] in compose(f"lora.peft.{field}")[0].lora.peft


# ---------------------------------------------------------------------------------------------- every recipe

EVERY = (*recipes.RECIPES, str(ROOT / "lib" / "recipes" / "template"))
every_recipe = pytest.mark.parametrize("name", EVERY, ids=lambda name: name.rpartition("/")[2])
# What may be below zero, and why.
BELOW_ZERO = {
    "train.seed": "any whole number",
    "loss.valid_range": "-1 stands for none",
    "data.low_m_s": "a velocity away from the radar",
    "data.high_m_s": "the same, above data.low_m_s",
}


def numbers(name: str, *kinds: str) -> list[str]:
    return [key for key, kind in config.leaves(recipes.load(name).Config).items() if kind in kinds]


def taken(name: str, keys: list[str], value: float) -> list[str]:
    """The settings that take a value without a word."""
    found = []
    for key in keys:
        try:
            config.from_dotted(recipes.load(name).Config, {key: value})
            found.append(key)
        except Stop as stopped:
            assert key.rpartition(".")[2] in stopped.cause, (key, stopped.cause)
    return found


@every_recipe
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_setting_takes_a_number_that_is_not_finite(name, value):
    assert taken(name, numbers(name, "float"), value) == []


@every_recipe
def test_no_setting_takes_a_negative_number_without_a_meaning(name):
    assert set(taken(name, numbers(name, "float", "int"), -1)) <= BELOW_ZERO.keys()


@every_recipe
@pytest.mark.parametrize(("key", "value"), [
    ("lora.alpha", 0.0), ("train.ema", 1.0), ("lora.full", ["("]), ("lora.full", [""]), ("eval.select_share", 1.5),
    ("eval.checkpoint", "newest"), ("train.precision", ""),
])  # fmt: skip
def test_settings_that_would_train_or_score_something_else_are_refused(name, key, value):
    with pytest.raises(Stop, match=key):
        config.from_dotted(recipes.load(name).Config, {key: value})


# ---------------------------------------------------------------------------------------------- names of guides


@pytest.mark.parametrize(("name", "key", "ours"), [
    ("llava_map", "LR_QFORMER", "train.lr_share_qformer"), ("llava_map", "LR_QUERIES", "train.lr"),
    ("llava_map", "lr_decoder", "train.lr"), ("llava_map", "GRAD_CLIP", "train.clip"),
    ("llava_map", "WARMUP_STEPS", "train.warmup_ratio"), ("llava_map", "dataroot", "data.root"),
    ("hamer", "TRAIN.GRAD_CLIP_VAL", "train.clip"), ("hamer", "GENERAL.CHECKPOINT_SAVE_TOP_K", "train.keep_best"),
    ("hamer", "lora.target_modules", "lora.targets"), ("hamer", "TRAIN.LR", "train.lr"),
    ("vavae_microdoppler", "--freeze-layers", "model.freeze_encoder_layers"), ("vggt_eth3d", "img_size", "model.image"),
    ("vavae_microdoppler", "freeze_backbone", "model.dit_trains"), ("vavae_microdoppler", "use_vf", "model.vf"),
    ("vavae_microdoppler", "contrastive_weight", "loss.contrastive"), ("vavae_microdoppler", "lr", "train.lr"),
    ("vavae_microdoppler", "pixelloss_weight", "nothing: the pixel loss counts 1"),
    ("vggt_eth3d", "optimizer.lr", "train.lr"), ("vggt_eth3d", "loss.depth.weight", "loss.depth_weight"),
    ("vggt_eth3d", "amp.amp_dtype", "train.precision"), ("vggt_eth3d", "window_weight", "loss.region_weight"),
    ("vggt_eth3d", "checkpoint.resume_checkpoint_path", "step4_train.py --checkpoint"),
])  # fmt: skip
def test_a_name_of_the_guides_is_answered_with_ours(name, key, ours):
    with pytest.raises(Stop, match="unknown setting") as stopped:
        config.from_dotted(recipes.load(name).Config, {key: 1})
    assert ours in stopped.value.cause.partition(": ")[2]


def test_what_other_names_lead_to_is_there_and_none_of_them_is_ours():
    settings = {key for name in recipes.RECIPES for key in config.leaves(recipes.load(name).Config)}
    led = {one for ours in NAMES_ELSEWHERE.values() for one in ours}
    assert all(one in settings or any(key.startswith(f"{one}.") for key in settings) for one in led)
    assert not NAMES_ELSEWHERE.keys() & FLAGS_ELSEWHERE.keys()
