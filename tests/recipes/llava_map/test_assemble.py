"""The networks of a stage, and what of them is trained."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lib.core.errors import Stop
from lib.core.records import Manifest, Record, Stage
from lib.network import adapters, weights
from lib.recipes.llava_map import assemble

STAGE2 = Stage("stage2", 1)


def test_stages_follow_one_another_and_count_whole_epochs(config, tmp_path):
    """Five frames in batches of four are two steps."""
    frames = [Record(f"a/{i}", "a", "", "", split="train") for i in range(5)]
    config.train.stages, config.train.epochs, config.train.stage3_epochs = ["stage2", "stage3"], 6, 3
    found = assemble.stages(config, Manifest(frames, tmp_path))
    assert found == [Stage("stage2", 12), Stage("stage3", 6, "stage2")]


def test_base_is_loaded_strictly_and_new_parts_come_from_the_seed(config, base):
    one, other = (assemble.build(config, STAGE2, {"base": base}) for _ in range(2))
    config.train.seed += 1
    third = assemble.build(config, STAGE2, {"base": base})
    content = [parts.modules["queries"].instance_content for parts in (one, other, third)]
    assert torch.equal(content[0], content[1]) and not torch.equal(content[0], content[2])
    assert one.base == other.base == third.base
    stored = dict(weights.tensors(base / "base.safetensors"))
    loaded = one.modules["llm"].layers[1].mlp.up_proj.weight
    assert torch.equal(loaded, stored["llm.layers.1.mlp.up_proj.weight"].float())


def trained_by_group(config, base, stage: Stage) -> tuple[dict, dict]:
    import re

    parts = assemble.build(config, stage, {"base": base})
    adapters.attach(parts)
    tensors = adapters.trainable(parts)
    [objective] = assemble.objectives(config, stage)
    found = {name: [g.name for g in objective.groups if re.fullmatch(g.tensors, name)] for name in tensors}
    return found, {g.name: g for g in objective.groups}


def test_every_trained_tensor_is_in_exactly_one_group_and_nothing_frozen_in_any(config, base):
    found, groups = trained_by_group(config, base, STAGE2)
    assert all(len(names) == 1 for names in found.values())
    assert {name.split(".")[0] for name in found} == {"qformer", "bridge", "queries", "decoder"}
    assert list(groups)[:3] == ["q", "m", "d"]  # the guide's log line: "LR: q=… m=… d=…"
    assert groups["q"].lr == pytest.approx(0.1 * groups["m"].lr) and groups["m"].lr == groups["d"].lr


def test_stage3_adapts_attention_of_the_language_model(config, base):
    """4 projections of 128 x 128 in 3 layers: rank * (128 + 128) each."""
    config.train.stages = ["stage2", "stage3"]
    found, groups = trained_by_group(config, base, Stage("stage3", 1, "stage2"))
    adapted = [name for name in found if name.startswith("llm.")]
    assert len(adapted) == 3 * 4 * 2 and all(found[name] == ["l"] for name in adapted)
    assert groups["l"].lr == config.train.lr_llm


def test_stage3_in_full_trains_the_language_model(config, base):
    config.train.stage3 = "full"
    found, _ = trained_by_group(config, base, Stage("stage3", 1, "stage2"))
    assert "llm.layers.0.mlp.up_proj.weight" in found and all(len(names) == 1 for names in found.values())


def test_stage3_goes_on_from_stage2_which_had_no_adapters(config, base, tmp_path):
    """What stage 2 trained is taken, and the new adapters keep their start.

    A checkpoint that should have them is still refused.
    """
    import hashlib

    from lib.network import checkpoint

    config.train.stages = ["stage2", "stage3"]
    parts = {name: assemble.build(config, Stage(name, 1), {"base": base}) for name in config.train.stages}
    wrapped = {name: adapters.attach(made) for name, made in parts.items()}
    trained = {name: torch.full_like(tensor, 0.5) for name, tensor in adapters.trainable(parts["stage2"]).items()}
    save_file(trained, tmp_path / "weights.safetensors")
    save_file({"step": torch.ones(1)}, tmp_path / "optim.safetensors")
    (tmp_path / "state.json").write_text(json.dumps({"base": parts["stage3"].base, "step": 1}))
    files = ("weights.safetensors", "optim.safetensors", "state.json")
    hashes = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in files}
    (tmp_path / "sha256.json").write_text(json.dumps(hashes))
    checkpoint.load(tmp_path, parts["stage3"], wrapped["stage3"], parts["stage3"].base, grown=True)
    now = adapters.trainable(parts["stage3"])
    assert all((now[name] == 0.5).all() for name in trained)
    assert all(not now[name].any() for name in now if ".lora_B." in name)
    with pytest.raises(Stop):
        checkpoint.load(tmp_path, parts["stage3"], wrapped["stage3"], parts["stage3"].base)


def test_no_language_model_leaves_none(config, base):
    config.model.llm, config.model.scene_interaction = "none", True
    parts = assemble.build(config, STAGE2, {"base": base})
    assert "llm" not in parts.modules and "prompt" not in parts.modules and "interaction" in parts.modules


def test_colour_jitter_keeps_image_tokens_from_being_cached(config, base):
    config.data.colour_jitter = 0.5
    assert "colour_jitter" in assemble.build(config, STAGE2, {"base": base}).frozen_features.refused


def test_mirror_image_has_tokens_of_its_own(config, base):
    features = assemble.build(config, STAGE2, {"base": base}).frozen_features
    names = {features.units({"sample_id": "scene-0001/a", "flip": flip})[0] for flip in (False, True)}
    assert len(names) == 2
