"""Language models from their own files: what config.json says is what is computed, in every family that is taken."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.core.errors import Stop
from lib.core.records import Stage
from lib.network import adapters
from lib.recipes.llava_map import assemble, causal, costs, language_model, sources
from lib.recipes.llava_map.layout import Layout
from lib.recipes.llava_map.sizes import DEMO_LLM
from tests.recipes.llava_map.language_models import FAMILIES, write

STAGE2, STAGE3 = Stage("stage2", 1), Stage("stage3", 1)
SIMILAR = 1e-5  # relative; two ways to build the same network in fp32


@pytest.fixture
def tokenizer(base):
    return base / "tokenizer.json"


def states(llm, seed: int = 0) -> torch.Tensor:
    layout = Layout(prefix=5, instances=2, points=3)
    with torch.no_grad():
        return causal.masked_states(llm, causal.inputs(llm, 1, layout, seed), layout)


# ---------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_states_are_those_of_transformers_own_loader(family, config, base, tokenizer, tmp_path):
    """A network rebuilt by hand lost rope_theta, scalings, eps and biases: cosine 0.53 to 0.60 to these states."""
    from transformers import AutoModel

    folder = write(tmp_path, family, tokenizer)
    config.model.llm, config.train.stage3 = str(folder), "full"  # trained: held in fp32, so it can be compared
    ours = assemble.build(config, STAGE3, {"base": base, "llm": folder}).modules["llm"]
    theirs = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32).eval()
    wanted = states(theirs)
    assert (states(ours) - wanted).norm() <= SIMILAR * wanted.norm()
    assert all(torch.equal(*pair) for pair in zip(ours.buffers(), theirs.buffers(), strict=True))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_plan_counts_what_is_built(family, config, base, tokenizer, tmp_path):
    folder = write(tmp_path, family, tokenizer)
    config.model.llm, config.lora.targets = str(folder), [r"layers\.\d+\.mlp\..*", r"layers\.0\.\w*att.*"]
    config.train.stages = ["stage2", "stage3"]
    body = language_model.body(config)
    parts = assemble.build(config, STAGE3, {"base": base, "llm": folder})
    assert body.shapes == {name: tuple(t.shape) for name, t in parts.modules["llm"].state_dict().items()}
    assert (body.hidden, body.layers) == (64, 2)
    adapters.attach(parts)  # compares with the recipe's table
    trained = sum(tensor.numel() for tensor in adapters.trainable(parts).values())
    assert costs.trainable(config, body) == trained


@pytest.mark.parametrize("family", language_model.LLAMA_LIKE)
def test_shapes_by_formula_are_those_in_the_file(family, tokenizer, tmp_path):
    """For weights whose shapes cannot be read without running a pickle."""
    folder = write(tmp_path, family, tokenizer)
    told = language_model.read_config(folder)
    assert language_model.llama_shapes(told) == language_model.stored_shapes(folder, ["model.safetensors"])


def test_a_file_without_its_head_is_taken_as_well(config, base, tokenizer, tmp_path):
    """As the export of this recipe writes one."""
    folder = write(tmp_path, "llama", tokenizer)
    stored = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in stored.items() if name.startswith("model.")}
    save_file(bare | {"layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}, folder / "model.safetensors")
    config.model.llm = str(folder)
    llm = assemble.build(config, STAGE2, {"base": base, "llm": folder}).modules["llm"]
    assert torch.equal(llm.norm.weight, stored["model.norm.weight"].to(torch.bfloat16))


def test_a_pickled_file_is_read_and_planned_by_formula(config, base, tokenizer, tmp_path):
    folder = write(tmp_path, "qwen2", tokenizer)
    stored = load_file(folder / "model.safetensors")
    torch.save(stored, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config.model.llm = str(folder)
    llm = assemble.build(config, STAGE2, {"base": base, "llm": folder}).modules["llm"]
    assert torch.equal(llm.norm.weight, stored["model.norm.weight"].to(torch.bfloat16))
    assert language_model.body(config).parameters == sum(p.numel() for p in llm.parameters())


def test_dropout_is_off_where_activations_are_recomputed(config, base, tokenizer, tmp_path):
    """Recomputing asks for training mode, which would wake it; the config of the test says 0.5."""
    folder = write(tmp_path, "llama", tokenizer)
    config.model.llm = str(folder)
    llm = assemble.build(config, STAGE2, {"base": base, "llm": folder}).modules["llm"]
    before = states(llm)
    llm.gradient_checkpointing_enable({"use_reentrant": False})
    causal.recompute(llm, True)
    assert llm.training and torch.equal(states(llm), before)


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


# ---------------------------------------------------------------------------------------------- what is refused


def test_mask_is_obeyed_and_eager_attention_is_caught():
    llm = causal.demo().eval()
    causal.refuse_unfit(llm)
    assert len(llm.layers) == DEMO_LLM["num_hidden_layers"]
    llm.config._attn_implementation = "eager"  # adds the bool mask to the scores: masks nothing
    with pytest.raises(Stop, match="does not obey the attention mask"):
        causal.refuse_unfit(llm)


def test_every_kind_of_block_is_tried():
    """A hybrid may attend in its first block and pass everything on in its second."""
    llm = causal.demo().eval()

    class Passing(type(llm.layers[1].self_attn)):
        def forward(self, hidden_states, *arguments, **named):
            return hidden_states.cumsum(1), None

    causal.refuse_unfit(llm)
    llm.layers[1].self_attn.__class__ = Passing
    with pytest.raises(Stop, match="does not obey the attention mask"):
        causal.refuse_unfit(llm)


def test_a_family_that_counts_positions_itself_is_refused(monkeypatch):
    llm = causal.demo().eval()
    obeyed = causal.masked_states

    def counting(llm, sequence, layout, places=None):
        return obeyed(llm, sequence, layout, torch.arange(layout.length))

    monkeypatch.setattr(causal, "masked_states", counting)
    with pytest.raises(Stop, match="does not follow the position ids"):
        causal.refuse_unfit(llm)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "has no config.json"),
        ("{", "not readable JSON"),
        ("[1]", "not a JSON object"),
        ('{"model_type": "llama"}', "no hidden_size"),
        ('{"model_type": "llama", "hidden_size": "64"}', "hidden_size is '64'"),
        ('{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": -3}', "num_hidden_layers is -3"),
        ('{"model_type": "no_such_family", "hidden_size": 64}', "cannot build"),
        ('{"model_type": "mamba", "hidden_size": 64}', "cannot build"),
        ('{"model_type": "llama", "hidden_size": 65, "num_attention_heads": 8}', "cannot build"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_named(text, named, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(Stop, match=named):
        causal.from_folder(tmp_path)


def test_a_sequence_longer_than_the_attention_is_refused(config, base, tokenizer, tmp_path):
    folder = write(tmp_path, "mistral", tokenizer, sliding_window=64)
    config.model.llm = str(folder)
    with pytest.raises(Stop, match="looks back 64 tokens"):
        assemble.build(config, STAGE2, {"base": base, "llm": folder})


def test_a_sample_with_more_places_than_positions_is_refused(config, base, tokenizer, tmp_path):
    folder = write(tmp_path, "llama", tokenizer, max_position_embeddings=100)
    config.model.llm = str(folder)
    with pytest.raises(Stop, match="has 100 positions"):
        assemble.build(config, STAGE2, {"base": base, "llm": folder})


def test_tokenizer_of_another_vocabulary_is_refused(config, base, tokenizer, tmp_path):
    folder = write(tmp_path, "llama", tokenizer, vocab_size=40)
    config.model.llm = str(folder)
    with pytest.raises(Stop, match="has 40 words"):
        assemble.build(config, STAGE2, {"base": base, "llm": folder})


def test_a_tokenizer_that_cannot_be_read_is_named(config, base, tokenizer, tmp_path):
    folder = write(tmp_path, "llama", tokenizer)
    (folder / "tokenizer.json").write_text("{}")
    config.model.llm = str(folder)
    with pytest.raises(Stop, match="no tokenizer that can be read"):
        assemble.build(config, STAGE2, {"base": base, "llm": folder})


def test_only_a_beginning_of_sequence_comes_before_the_scene(config, base, tokenizer, tmp_path):
    """Qwen's tokenizers have none: their first word belongs to the prompt."""
    for begin, before in ((1, 1), (250, 0)):
        folder = write(tmp_path / str(begin), "qwen2", tokenizer, bos_token_id=begin)
        config.model.llm = str(folder)
        assert assemble.build(config, STAGE2, {"base": base, "llm": folder}).modules["prompt"].before == before


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
        bytes_each[kind, stages[0]] = costs.plan(config).memory_bytes["language model"] / body.parameters
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
