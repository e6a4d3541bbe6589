"""Strict loading of published files. Files here have the published key names at small sizes."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from lib.core.errors import Stop
from lib.core.records import Stage
from lib.network import weights
from lib.recipes.llava_map import assemble, model, published
from lib.recipes.llava_map.sizes import QFORMERS

STAGE2 = Stage("stage2", 1)


@pytest.fixture
def blip2(base, tmp_path, monkeypatch):
    """A sharded BLIP-2 checkpoint with small tensors under the published names, next to tensors that are not ours."""
    size = dataclasses.replace(QFORMERS["demo"], layers=12, width=16, heads=2)  # 12 layers: 255 tensors, as published
    monkeypatch.setitem(QFORMERS, "blip2", size)
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


def test_base_with_a_tensor_missing_is_refused(config, base, tmp_path):
    stored = {name: tensor.clone() for name, tensor in weights.tensors(base / "base.safetensors")}
    del stored["qformer.query_tokens"]
    save_file(stored, tmp_path / "base.safetensors")
    (tmp_path / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    with pytest.raises(Stop, match="1 missing"):
        assemble.build(config, STAGE2, {"base": tmp_path})


def test_all_255_blip2_tensors_are_taken(config, blip2):
    folder, tensors = blip2
    config.model.qformer = "blip2"
    net = model.new_qformer(config)
    loaded = weights.load_strict(net, published.qformer_pairs(config, {"blip2": folder}))
    assert loaded.matched == 255
    assert all(torch.equal(value, tensors[name]) for name, value in net.state_dict().items())


def test_blip2_under_other_names_stops_with_the_count(config, blip2):
    """Where the guide's project loaded 0 of 255 tensors and printed success."""
    folder, tensors = blip2
    without_norms = {name: tensor for name, tensor in tensors.items() if "layernorm" not in name}
    write_shards(
        folder,
        {name.replace("attention.attention", "attention.self"): tensor for name, tensor in without_norms.items()},
    )
    config.model.qformer = "blip2"
    with pytest.raises(Stop, match="253 of the 255"):
        list(published.qformer_pairs(config, {"blip2": folder}))
    write_shards(folder, {name.replace("query", "q"): tensor for name, tensor in tensors.items()})
    with pytest.raises(Stop, match="254 of the 255"):  # query_tokens itself; the strict load would catch the rest
        list(published.qformer_pairs(config, {"blip2": folder}))


def test_four_bits_without_bitsandbytes_are_refused(config, base, monkeypatch):
    config.model.llm_bits = 4
    for name in ("bitsandbytes", "bitsandbytes.nn"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Stop, match="bitsandbytes"):
        assemble.build(config, STAGE2, {"base": base})


def test_what_is_in_four_bits_hands_gradients_on(monkeypatch):
    """bitsandbytes packs weights for a processor at the first evaluation; from then on they hand none on."""

    class Linear4bit(torch.nn.Linear):
        support_avx512bf16_for_cpu = True

        def __init__(self, inside, outside, bias, compute_dtype, quant_type):
            super().__init__(inside, outside, bias)

    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", SimpleNamespace(Linear4bit=Linear4bit))
    small = published.four_bit(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2, bias=False)))
    assert [type(layer) for layer in small] == [Linear4bit, Linear4bit]
    assert not any(layer.support_avx512bf16_for_cpu for layer in small)


def test_the_language_model_is_tried_before_it_is_used(config, base, monkeypatch):
    def unfit(llm):
        raise Stop("attention is not obeyed")

    monkeypatch.setattr(published.causal, "refuse_unfit", unfit)
    with pytest.raises(Stop, match="attention is not obeyed"):
        assemble.build(config, STAGE2, {"base": base})
