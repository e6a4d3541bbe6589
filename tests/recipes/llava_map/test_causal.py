"""Language models from their own files: what config.json says is what is computed, in every family that is taken."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.core.errors import Stop
from lib.core.records import Stage
from lib.network import adapters
from lib.recipes.llava_map import assemble, causal, costs, language_model
from lib.recipes.llava_map.layout import Layout
from lib.recipes.llava_map.sizes import DEMO_LLM
from tests.recipes.llava_map.language_models import FAMILIES, write

STAGE2, STAGE3 = Stage("stage2", 1), Stage("stage3", 1)
SIMILAR = 1e-5  # relative; two ways to build the same network in fp32


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
