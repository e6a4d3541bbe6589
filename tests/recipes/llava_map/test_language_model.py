"""A language model's files, what of it is trained, and where its adapters go."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.core import hashes
from lib.core.errors import Stop
from lib.core.records import Stage
from lib.core.run import Damaged
from lib.network import adapters
from lib.recipes.llava_map import assemble, costs, language_model, sources
from tests.recipes.llava_map.language_models import write

STAGE2, STAGE3 = Stage("stage2", 1), Stage("stage3", 1)


# ---------------------------------------------------------------------------------------------- what is opened


def test_what_step_2_records_is_what_is_opened(config, base, tokenizer, tmp_path):
    """A neighbour with another name, another format or an adapter is neither recorded nor read."""
    folder = write(tmp_path, "llama", tokenizer)
    stored = load_file(folder / "model.safetensors")
    other = {name: torch.zeros_like(tensor) for name, tensor in stored.items()}
    for name in ("consolidated.safetensors", "adapter_model.safetensors", "a_model.safetensors"):
        save_file(other, folder / name)
    torch.save(other, folder / "pytorch_model.bin")
    config.model.llm = str(folder)
    [asset] = [asset for asset in sources.assets(config) if asset.name == "llm"]
    assert set(asset.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    llm = assemble.build(config, STAGE2, {"base": base, "llm": folder}).modules["llm"]
    assert torch.equal(llm.norm.weight, stored["model.norm.weight"].to(torch.bfloat16))


def test_an_index_records_the_files_that_it_names(config, tokenizer, tmp_path):
    folder = write(tmp_path, "llama", tokenizer)
    names = sorted(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    save_file({"old": torch.zeros(1)}, folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(names, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert language_model.weight_files(folder) == ["model.safetensors.index.json", "part.safetensors"]
    config.model.llm = str(folder)
    assert "part.safetensors" in sources.language_model(config).files
    assert language_model.body(config).parameters > 0


@pytest.mark.parametrize(
    ("index", "named"),
    [("[]", "not a JSON object"), ('{"weight_map": {"a": "../b"}}', "weight_map"), ("{", "readable")],
)
def test_a_damaged_index_is_named(index, named, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(Stop, match=rf"index\.json.*{named}"):
        language_model.weight_files(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0[1, 2]  ", b"\xff" * 16, b"\x10\0\0\0\0\0\0\0{"])
def test_damaged_weights_are_named_before_anything_runs(content, config, tokenizer, tmp_path):
    folder = write(tmp_path, "llama", tokenizer)
    (folder / "model.safetensors").write_bytes(content)
    config.model.llm = str(folder)
    with pytest.raises(Stop, match=r"model\.safetensors is not a complete safetensors file"):
        costs.plan(config)


def test_each_id_of_the_hub_has_a_folder_of_its_own(config):
    """In a common one, one model's weights would be taken for another's of the same shape."""
    names = set()
    for name, revision in (("a/b", "0" * 40), ("a/c", "0" * 40), ("a/b", "1" * 40), ("lmsys/vicuna-7b-v1.5", "")):
        config.model.llm, config.model.llm_revision = name, revision
        names.add(sources.language_model(config).name)
    assert len(names) == 4


# ---------------------------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"train.stage3": "full"}, torch.float32),
        ({"train.stage3": "lora"}, torch.bfloat16),
        ({"train.stage3": "lora", "lora.full": [r"llm\.norm\..*"]}, torch.float32),
        ({"train.stage3": "lora", "lora.peft": {"bias": "all"}}, torch.float32),
    ],
)
def test_what_is_trained_is_held_in_fp32(settings, dtype, config, base, tokenizer, tmp_path):
    """In bf16, AdamW at 1e-6 moved 0.4 % of a language model's parameters; a frozen one may be bf16."""
    folder = write(tmp_path, "qwen2", tokenizer, torch.bfloat16)
    for key, value in settings.items():
        section, _, name = key.partition(".")
        setattr(getattr(config, section), name, value)
    config.model.llm, config.train.stages = str(folder), ["stage2", "stage3"]
    parts = assemble.build(config, STAGE3, {"base": base, "llm": folder})
    assert parts.modules["llm"].embed_tokens.weight.dtype == dtype
    adapters.attach(parts)
    trained = adapters.trainable(parts)
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    [objective] = assemble.objectives(config, STAGE3)
    for name in trained:
        assert sum(bool(re.fullmatch(group.tensors, name)) for group in objective.groups) == 1, name


def test_one_base_whatever_it_is_held_in(config, base, tokenizer, tmp_path):
    """Stage 3 in full starts from a stage 2 that held the same file in bf16."""
    folder = write(tmp_path, "llama", tokenizer, torch.bfloat16)
    config.model.llm, config.train.stage3 = str(folder), "full"
    built = [assemble.build(config, stage, {"base": base, "llm": folder}) for stage in (STAGE2, STAGE3)]
    assert built[0].base == built[1].base
    assert [parts.modules["llm"].norm.weight.dtype for parts in built] == [torch.bfloat16, torch.float32]


def test_the_plan_says_that_a_trained_language_model_is_fp32(config, base, tokenizer, tmp_path):
    """4 bytes of a parameter, and 2 for the copy that autocast makes; frozen it has 2."""
    folder = write(tmp_path, "llama", tokenizer, torch.bfloat16)
    config.model.llm = str(folder)
    bytes_each = {}
    for kind, stages in (("full", ["stage3"]), ("lora", ["stage3"]), ("full", ["stage2"])):
        config.train.stage3, config.train.stages = kind, stages
        body = language_model.body(config)
        one = costs.plan(config).footprint
        image = 4 * costs.parts(config, body)["image"]
        opened = body.parameters if one.trained_in_blocks else 0
        held = one.frozen_blocks + one.frozen_rest - image + one.copies + 4 * opened
        bytes_each[kind, stages[0]] = held / body.parameters
    assert bytes_each == {("full", "stage3"): 6, ("lora", "stage3"): 2, ("full", "stage2"): 2}


def test_four_bits_are_refused_where_the_language_model_is_trained(config, base, tokenizer, tmp_path):
    folder = write(tmp_path, "llama", tokenizer)
    config.model.llm, config.model.llm_bits, config.lora.full = str(folder), 4, [r".*\.embed_tokens\.weight"]
    with pytest.raises(Stop, match="llm_bits=4"):
        assemble.build(config, STAGE2, {"base": base, "llm": folder})


# ---------------------------------------------------------------------------------------------- where adapters go


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (["q_proj", "o_proj"], {f"layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qo"}),
        (["up_proj", "layers.1.mlp.gate_proj"], {"layers.0.mlp.up_proj", "layers.1.mlp.up_proj",
                                                 "layers.1.mlp.gate_proj"}),
        ([r"layers\.0\..*"], {f"layers.0.self_attn.{n}_proj" for n in "qkvo"}
         | {f"layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")}),
    ],
)  # fmt: skip
def test_targets_are_whole_names_of_the_real_network(targets, layers, config, base, tokenizer, tmp_path):
    folder = write(tmp_path, "qwen3", tokenizer)
    config.model.llm, config.lora.targets = str(folder), targets
    parts = assemble.build(config, STAGE3, {"base": base, "llm": folder})
    wrapped = adapters.attach(parts)
    assert wrapped["llm"].peft_config["default"].target_modules == layers
    adapted = {name.removeprefix("llm.").split(".lora_")[0] for name in adapters.trainable(parts) if ".lora_" in name}
    assert adapted == layers


def test_a_target_that_the_family_does_not_have_is_named(config, base, tokenizer, tmp_path):
    """GPT-NeoX calls it query_key_value."""
    folder = write(tmp_path, "gpt_neox", tokenizer)
    config.model.llm = str(folder)
    with pytest.raises(Stop, match=r"lora\.targets=q_proj.*query_key_value"):
        assemble.build(config, STAGE3, {"base": base, "llm": folder})
    config.lora.targets = ["query_key_value"]
    adapters.attach(assemble.build(config, STAGE3, {"base": base, "llm": folder}))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_small_file_that_changed_under_its_size_and_time_is_refused(config, base, tokenizer, tmp_path, name):
    folder = write(tmp_path, "llama", tokenizer)
    config.model.llm = str(folder)
    known = {file: hashes.sha256_of(folder / file) for file in ("config.json", "tokenizer.json")}
    hashes.expect(folder, known | {name: "another"}, "python step2_download.py --run r --force")
    with pytest.raises(Damaged, match=f"{name} does not hold what was written"):
        assemble.build(config, STAGE2, {"base": base, "llm": folder})
