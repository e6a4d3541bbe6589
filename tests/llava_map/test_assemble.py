"""Strict loading of published files, and what of the networks is trained. Files here have the published key names at small sizes."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from lib import adapters, weights
from lib.errors import Stop
from lib.recipes import Stage
from lib.recipes.llava_map import assemble, config, model, pretrain

STAGE2 = Stage("stage2", 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base in the shipped format, with an untrained image encoder."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    parts = model.published_parts(pretrain.demo_config(), None)
    pretrain.write(parts["image"].eval(), parts["qformer"], folder)
    return folder


@pytest.fixture
def blip2(base, tmp_path, monkeypatch):
    """A sharded BLIP-2 checkpoint with small tensors under the published names, next to tensors that are not ours."""
    size = dataclasses.replace(config.QFORMERS["demo"], layers=12, width=16, heads=2)  # 12 layers: 255 tensors, as published
    monkeypatch.setitem(config.QFORMERS, "blip2", size)
    tensors = {name: tensor.contiguous() for name, tensor in model.QFormer(size).state_dict().items()}
    assert len(tensors) == 255
    tensors |= {"language_projection.weight": torch.zeros(4, 4), "vision_model.post_layernorm.weight": torch.zeros(4)}
    write_shards(tmp_path, tensors)
    return tmp_path, tensors


def write_shards(folder, tensors: dict) -> None:
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, mine in halves.items():
        save_file({name: tensors[name] for name in mine}, folder / file)
    index = {"weight_map": {name: file for file, mine in halves.items() for name in mine}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_base_is_loaded_strictly_and_new_parts_come_from_the_seed(cfg, base):
    one, other = (assemble.build(cfg, STAGE2, {"base": base}) for _ in range(2))
    cfg.train.seed += 1
    third = assemble.build(cfg, STAGE2, {"base": base})
    content = [parts.modules["queries"].instance_content for parts in (one, other, third)]
    assert torch.equal(content[0], content[1]) and not torch.equal(content[0], content[2])
    assert one.base == other.base == third.base
    stored = dict(weights.tensors(base / "base.safetensors"))
    assert torch.equal(one.modules["llm"].layers[1].mlp.up_proj.weight, stored["llm.layers.1.mlp.up_proj.weight"].float())


def test_base_with_a_tensor_missing_is_refused(cfg, base, tmp_path):
    stored = {name: tensor.clone() for name, tensor in weights.tensors(base / "base.safetensors")}
    del stored["qformer.query_tokens"]
    save_file(stored, tmp_path / "base.safetensors")
    (tmp_path / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    with pytest.raises(Stop, match="1 missing"):
        assemble.build(cfg, STAGE2, {"base": tmp_path})


def test_all_255_blip2_tensors_are_taken(cfg, blip2):
    folder, tensors = blip2
    cfg.model.qformer = "blip2"
    net = model.new_qformer(cfg)
    loaded = weights.load_strict(net, assemble.qformer_pairs(cfg, {"blip2": folder}))
    assert loaded.matched == 255
    assert all(torch.equal(value, tensors[name]) for name, value in net.state_dict().items())


def test_blip2_under_other_names_stops_with_the_count(cfg, blip2):
    """Where the guide's project loaded 0 of 255 tensors and printed success."""
    folder, tensors = blip2
    write_shards(
        folder,
        {name.replace("attention.attention", "attention.self"): tensor for name, tensor in tensors.items() if "layernorm" not in name},
    )
    cfg.model.qformer = "blip2"
    with pytest.raises(Stop, match="253 of the 255"):
        list(assemble.qformer_pairs(cfg, {"blip2": folder}))
    write_shards(folder, {name.replace("query", "q"): tensor for name, tensor in tensors.items()})
    with pytest.raises(Stop, match="254 of the 255"):  # query_tokens itself is renamed; the rest is caught by the strict load
        list(assemble.qformer_pairs(cfg, {"blip2": folder}))


def test_tokenizer_of_another_vocabulary_is_refused(cfg, base):
    small = dataclasses.replace(config.LLMS["demo"], vocabulary=40)
    with pytest.raises(Stop, match="has 40 words"):
        assemble.prompt_ids(cfg, small, {"base": base})


def test_language_model_is_any_llama_by_its_config(cfg, base, tmp_path):
    """Sizes come from config.json; the head and stored rotary frequencies have no place."""
    from transformers import LlamaConfig, LlamaForCausalLM

    told = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, vocab_size=300
    )
    net = LlamaForCausalLM(told)
    told.save_pretrained(tmp_path)
    save_file(
        {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    cfg.model.llm = str(tmp_path)
    parts = assemble.build(cfg, STAGE2, {"base": base, "llm": tmp_path})
    assert torch.equal(parts.modules["llm"].embed_tokens.weight, net.model.embed_tokens.weight.to(torch.bfloat16))
    assert torch.equal(parts.modules["llm"].rotary_emb.inv_freq, net.model.rotary_emb.inv_freq)


def test_model_of_another_family_is_refused(cfg, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    cfg.model.llm = str(tmp_path)
    with pytest.raises(Stop, match="'gpt2'"):
        assemble.build(cfg, STAGE2, {"llm": tmp_path})


def trained_by_group(cfg, base, stage: Stage) -> tuple[dict, dict]:
    import re

    parts = assemble.build(cfg, stage, {"base": base})
    adapters.attach(parts)
    tensors = adapters.trainable(parts)
    [objective] = assemble.objectives(cfg, stage)
    found = {name: [g.name for g in objective.groups if re.fullmatch(g.tensors, name)] for name in tensors}
    return found, {g.name: g for g in objective.groups}


def test_every_trained_tensor_is_in_exactly_one_group_and_nothing_frozen_in_any(cfg, base):
    found, groups = trained_by_group(cfg, base, STAGE2)
    assert all(len(names) == 1 for names in found.values())
    assert {name.split(".")[0] for name in found} == {"qformer", "bridge", "queries", "decoder"}
    assert list(groups)[:3] == ["q", "m", "d"]  # the guide's log line: "LR: q=… m=… d=…"
    assert groups["q"].lr == pytest.approx(0.1 * groups["m"].lr) and groups["m"].lr == groups["d"].lr


def test_stage3_adapts_attention_of_the_language_model(cfg, base):
    """4 projections of 128 x 128 in 3 layers: rank * (128 + 128) each."""
    cfg.train.stages = ["stage2", "stage3"]
    found, groups = trained_by_group(cfg, base, Stage("stage3", 1, "stage2"))
    adapted = [name for name in found if name.startswith("llm.")]
    assert len(adapted) == 3 * 4 * 2 and all(found[name] == ["l"] for name in adapted)
    assert groups["l"].lr == cfg.train.lr_llm


def test_stage3_in_full_trains_the_language_model(cfg, base):
    cfg.train.stage3 = "full"
    found, _ = trained_by_group(cfg, base, Stage("stage3", 1, "stage2"))
    assert "llm.layers.0.mlp.up_proj.weight" in found and all(len(names) == 1 for names in found.values())


def test_stage3_goes_on_from_stage2_which_had_no_adapters(cfg, base, tmp_path):
    """What stage 2 trained is taken, the new adapters keep their start; a checkpoint that should have them is still refused."""
    import hashlib

    from lib import checkpoint

    cfg.train.stages = ["stage2", "stage3"]
    parts = {name: assemble.build(cfg, Stage(name, 1), {"base": base}) for name in cfg.train.stages}
    wrapped = {name: adapters.attach(made) for name, made in parts.items()}
    trained = {name: torch.full_like(tensor, 0.5) for name, tensor in adapters.trainable(parts["stage2"]).items()}
    save_file(trained, tmp_path / "weights.safetensors")
    save_file({"step": torch.ones(1)}, tmp_path / "optim.safetensors")
    (tmp_path / "state.json").write_text(json.dumps({"base": parts["stage3"].base, "step": 1}))
    files = ("weights.safetensors", "optim.safetensors", "state.json")
    (tmp_path / "sha256.json").write_text(json.dumps({name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in files}))
    checkpoint.load(tmp_path, parts["stage3"], wrapped["stage3"], parts["stage3"].base, grown=True)
    now = adapters.trainable(parts["stage3"])
    assert all((now[name] == 0.5).all() for name in trained)
    assert all(not now[name].any() for name in now if ".lora_B." in name)
    with pytest.raises(Stop):
        checkpoint.load(tmp_path, parts["stage3"], wrapped["stage3"], parts["stage3"].base)


def test_no_language_model_leaves_none(cfg, base):
    cfg.model.llm, cfg.model.scene_interaction = "none", True
    parts = assemble.build(cfg, STAGE2, {"base": base})
    assert "llm" not in parts.modules and "prompt" not in parts.modules and "interaction" in parts.modules


def test_four_bits_without_bitsandbytes_are_refused(cfg, base, monkeypatch):
    import sys

    cfg.model.llm_bits = 4
    for name in ("bitsandbytes", "bitsandbytes.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Stop, match="bitsandbytes"):
        assemble.build(cfg, STAGE2, {"base": base})


def test_language_model_that_does_not_obey_the_mask_is_refused(cfg, base, monkeypatch):
    built = model.bare_llama

    def eager(size):
        llm = built(size)
        llm.config._attn_implementation = "eager"
        return llm

    monkeypatch.setattr(model, "bare_llama", eager)
    with pytest.raises(Stop, match="does not obey the attention mask"):
        assemble.build(cfg, STAGE2, {"base": base})


def test_colour_jitter_keeps_image_tokens_from_being_cached(cfg, base):
    cfg.data.colour_jitter = 0.5
    assert "colour_jitter" in assemble.build(cfg, STAGE2, {"base": base}).prefix.refused


def test_mirror_image_has_tokens_of_its_own(cfg, base):
    prefix = assemble.build(cfg, STAGE2, {"base": base}).prefix
    names = {prefix.units({"sample_id": "scene-0001/a", "flip": flip})[0] for flip in (False, True)}
    assert len(names) == 2
