"""step 2 --import: a wrapped state dict becomes a checkpoint that can be scored and trained on, or is refused."""

import peft
import pytest
import torch

from lib import api
from lib.core.errors import Stop
from lib.core.run import existing
from lib.network import foreign
from lib.recipes.toy import recipe as toy
from lib.recipes.toy.sources import base_tensors


def wrapped(rank: int = 2, lost: bool = False, **more):
    """The toy's network, wrapped as people do it by hand, with adapters that do something.

    lost: loaded after the wrapping and not strictly, so that nothing of the adapted layers arrives.
    """
    torch.manual_seed(3)
    net = toy.network()
    if not lost:
        net.load_state_dict(base_tensors())
    model = peft.get_peft_model(net, peft.LoraConfig(r=rank, lora_alpha=4, target_modules=["0", "2"], **more))
    if lost:
        renamed = {f"base_model.model.{name}": tensor for name, tensor in base_tensors().items()}
        assert len(model.load_state_dict(renamed, strict=False).unexpected_keys) == 4
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.3)
    return model


def saved(path, state):
    torch.save({"model": state, "optimizer": {"state": {}}, "prev_epoch": 19}, path)
    return path


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


def test_an_imported_state_dict_is_scored_as_it_was_there(step, prepared, tmp_path, folder, capsys):
    prepared()
    model = wrapped()
    assert step(2, "--import", str(saved(tmp_path / "checkpoint_19.pt", model.state_dict()))) == 0
    said, checkpoint = capsys.readouterr().out, "runs/r/imported/step-000000"
    assert "imported checkpoint_19.pt: rank 2, 4 the same" in said
    assert f"--checkpoint {tmp_path / checkpoint}" in said and "step1_setup.py --run r train.accept_seen=true" in said
    assert step(4, "--checkpoint", checkpoint) == 2
    assert "nobody can say whether it has seen" in capsys.readouterr().err
    assert step(1, "train.accept_seen=true", "train.lr=0", "train.epochs=1") == 0
    assert step(4, "--checkpoint", checkpoint) == 0 and step(5) == 0
    x = torch.linspace(-1, 1, 80).reshape(10, 8)
    run = api.load(folder)
    torch.testing.assert_close(run.adapted(x), model(x))
    assert not torch.allclose(run.adapted(x), run.base(x), atol=1e-2)
    assert "checkpoint_19.pt, trained elsewhere" in existing(folder / "run.json")["seen"][0]
    assert "trained elsewhere" in (folder / "report.html").read_text()


def test_what_is_no_file_and_what_a_recipe_does_not_import_end_in_a_sentence(step, prepared, tmp_path, capsys):
    prepared()
    assert step(2, "--import", "nowhere.pt") == 2
    assert "there is no such file" in capsys.readouterr().err
    (tmp_path / "notes.pt").write_text("no weights")
    assert step(2, "--import", str(tmp_path / "notes.pt")) == 2
    assert "cannot be read as weights" in (said := capsys.readouterr().err) and "--import" in said


def broken(state):
    return {name: tensor * float("nan") if "2.lora_A" in name else tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def network():
    """The toy's network with its base and new adapters of rank 2."""
    model = wrapped()
    return model.base_model.model


@pytest.mark.parametrize(("change", "said"), [
    (lambda state: wrapped(lost=True).state_dict(), r"4 tensors of 4 \(81 numbers\), 4 of them under"),
    (lambda state: wrapped(rank=4).state_dict(), r"have rank 4, and lora\.rank=2"),
    (lambda state: without(state, "2.lora_B"), r"half of an adapter, A or B alone, in 1 layer \(2\)"),
    (lambda state: without(state, "2.lora_"), r"no adapter for 1 layer \(2\)"),
    (lambda state: without(state, "2.base_layer.bias"), r"missing under adapters 1 tensor \(2\.bias\)"),
    (lambda state: state | {"9.lora_A": torch.zeros(2, 8), "9.lora_B": torch.zeros(8, 2)}, r"has not, of 1 layer"),
    (broken, r"not finite in 1 layer \(2\)"),
    (lambda state: wrapped(use_dora=True).state_dict(), r"plain LoRA cannot hold, in 2 tensors \(0\.lora_magnitude_"),
    (lambda state: wrapped(lora_bias=True).state_dict(), r"plain LoRA cannot hold, in 2 tensors \(0\.lora_B\.bias"),
    (lambda state: state | {"0.lora_A.second.weight": torch.zeros(2, 8)}, "cannot hold, in 1 tensor"),
    (lambda state: state | {"9.modules_to_save.default.weight": torch.ones(1)}, "cannot hold, in 1 tensor"),
    (lambda state: state | {"2.lora_B.weight": torch.ones(1, 2).char()}, "quantised or no floats"),
    (lambda state: state | {f"{foreign.WRAPPED}0.lora_A.default.weight": torch.zeros(2, 7)}, "another shape for 1"),
])  # fmt: skip
def test_what_is_not_whole_is_refused_with_what_is_missing(network, tmp_path, change, said):
    file, before = tmp_path / "x.pt", {name: t.clone() for name, t in network.state_dict().items()}
    saved(file, change(wrapped().state_dict()))
    with pytest.raises(Stop, match=said):
        layers, _, _ = foreign.read(file, network)
        foreign.fill(network, layers, file, "say others")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("settings", "said"), [
    ({"use_rslora": True}, r"multiplies adapters by 2\.82843, and the run by 2"),
    ({"lora_alpha": 6}, "multiplies adapters by 3, and the run by 2"),
    ({"alpha_pattern": {"0": 8}}, "multiplies each layer by its own number, and the run by 2"),
])  # fmt: skip
def test_what_peft_writes_beside_adapters_is_what_they_are_multiplied_by(network, tmp_path, settings, said):
    asked = {"r": 2, "lora_alpha": 4, "target_modules": ["0", "2"]}
    for said_there, wrong in ((asked, ""), (asked | settings, said)):
        peft.get_peft_model(toy.network(), peft.LoraConfig(**said_there)).save_pretrained(tmp_path)
        layers, _, _ = foreign.read(file := tmp_path / "adapter_model.safetensors", network)
        if wrong:
            with pytest.raises(Stop, match=wrong):
                foreign.fill(network, layers, file, "say others")
        else:
            assert foreign.fill(network, layers, file, "say others") == 2


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", "{}", '{"r": 0, "lora_alpha": 4}', '{"r": [], "lora_alpha": 4}']
)
def test_a_damaged_record_beside_adapters_is_one_sentence(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(Stop, match=r"adapter_config\.json cannot be read"):
        foreign.refuse_other_scale(tmp_path / "adapter_model.bin", {2.0})


class Harm:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file ran code')",)


def test_a_file_that_would_run_code_is_refused_unread(network, tmp_path):
    torch.save({"model": wrapped().state_dict(), "x": Harm()}, tmp_path / "x.pt")
    with pytest.raises(Stop, match="exec"):
        foreign.read(tmp_path / "x.pt", network)


def test_adapters_alone_are_read_and_a_coarser_copy_of_the_base_is_the_base(network, tmp_path):
    state = wrapped().state_dict()
    layers, others, same = foreign.read(saved(tmp_path / "a.pt", without(state, "base_layer")), network)
    assert (sorted(layers), others, same) == (["0", "2"], [], 0)
    halves = {name: tensor.bfloat16() for name, tensor in state.items()}
    assert foreign.read(saved(tmp_path / "b.pt", halves), network)[2] == 4
