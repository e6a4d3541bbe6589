"""step 2 --import: lora_weights_*.pth, as the LoRA fork of HaMeR writes them."""

import re

import pytest
import torch
from safetensors.torch import save_file

from lib.core.errors import Stop
from lib.core.records import Foreign
from lib.network import adapters, checkpoint
from lib.recipes.hamer import adopt as adopting
from lib.recipes.hamer import assemble
from tests.recipes.hamer.conftest import STAGE

BIASES = {"lora__full": [r"hamer.+(decpose|qkv|fc1).bias"]}


@pytest.fixture
def attached(network, configure, tmp_path):
    """attached(**settings) -> (config, parts), adapters attached, over one base."""
    save_file(network(configure()).state_dict(), tmp_path / "base.safetensors")

    def make(**settings):
        config = configure(model__checkpoint=str(tmp_path / "base.safetensors"), **settings)
        parts = assemble.build(config, STAGE, {"base": tmp_path})
        adapters.attach(parts)
        return config, parts

    return make


def theirs(parts, rank: int = 2, biases: tuple[str, ...] = (), lost: str = "nothing") -> dict[str, torch.Tensor]:
    """Names and shapes of the fork: A, B and the bias of every adapted layer, and of two layers of the critic."""
    torch.manual_seed(1)
    found = {}
    for name, layer in parts.modules["hamer"].named_modules():
        if hasattr(layer, "lora_A") and not re.search(lost, name):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            found[f"{name}.lora.lora_A"] = torch.randn(rank, *a.shape[1:])
            found[f"{name}.lora.lora_B"] = torch.randn(b.shape[0], rank, *b.shape[2:])
            if getattr(layer.base_layer, "bias", None) is not None:
                found[f"{name}.lora_bias"] = torch.full((b.shape[0],), float(any(kind in name for kind in biases)))
    for name in ("betas_fc1", "betas_fc2"):
        found |= {f"discriminator.{name}.lora.lora_{side}": torch.ones(2, 2) for side in "AB"}
    return found


def adopt(config, parts, state, folder):
    file = folder / "lora_weights_step_001000.pth"
    torch.save(state, file)
    return adopting.adopt(config, Foreign(file, folder, dict, lambda: parts))[0]


def test_a_whole_file_becomes_the_runs_adapters(attached, tmp_path):
    config, parts = attached()
    state = theirs(parts)
    said = adopt(config, parts, state, tmp_path)
    for name, tensor in state.items():
        if name.startswith(("backbone", "mano_head")) and "lora_bias" not in name:
            layer, side = name.split(".lora.lora_")
            weight = getattr(parts.modules["hamer"].get_submodule(layer), f"lora_{side}")["default"].weight
            assert torch.equal(weight, tensor), name
    assert "2 adapters of the critic passed over" in said and "lora.alpha=4" in said


def test_biases_are_kept_where_the_run_trains_them_and_refused_where_it_does_not(attached, tmp_path):
    config, parts = attached()
    with pytest.raises(Stop, match=r"also moves the bias of 7 layers") as stop:
        adopt(config, parts, theirs(parts, biases=("decpose", "qkv", "fc1")), tmp_path)
    assert f"lora.full=[{BIASES['lora__full'][0]}]" in stop.value.command.replace("decpose|fc1|qkv", "decpose|qkv|fc1")
    config, parts = attached(**BIASES)
    before = checkpoint.contiguous(checkpoint.full_tensors(parts))
    adopt(config, parts, theirs(parts, biases=("decpose", "qkv", "fc1")), tmp_path)
    after = checkpoint.full_tensors(parts)
    assert len(after) == 7 and all(torch.equal(tensor, before[name] + 1) for name, tensor in after.items())


def test_what_the_fork_never_adapted_is_named_with_the_settings_that_fit(attached, tmp_path):
    """Its matching misses the attentions' outputs in the head."""
    config, parts = attached()
    with pytest.raises(Stop, match=r"no adapter for 4 layers") as stop:
        adopt(config, parts, theirs(parts, lost=r"to_out"), tmp_path)
    fitting = re.findall(r"'lora\.targets\.(\w+)=\[(.+?)\]'", stop.value.command)
    config, parts = attached(**{f"lora__targets__{part}": kinds.split(",") for part, kinds in fitting})
    assert adopt(config, parts, theirs(parts, lost=r"to_out"), tmp_path)


def test_a_file_of_something_else_ends_in_a_sentence(attached, tmp_path):
    config, parts = attached()
    with pytest.raises(Stop, match="1 tensor of other kinds"):
        adopt(config, parts, theirs(parts) | {"backbone.pos_embed": torch.zeros(1)}, tmp_path)
    with pytest.raises(Stop, match=r"notes\.txt is nothing that this recipe imports"):
        adopting.adopt(config, Foreign(tmp_path / "notes.txt", tmp_path, dict, dict))
