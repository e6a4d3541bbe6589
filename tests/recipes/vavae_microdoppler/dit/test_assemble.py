"""The networks of the stage dit: what is loaded from a published file, what is trained, what the loss reaches."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.network import adapters
from lib.recipes.vavae_microdoppler import costs
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.dit import assemble, flow, objectives
from lib.recipes.vavae_microdoppler.dit.judge import Judge
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT, position_table
from lib.recipes.vavae_microdoppler.presets import PRESETS
from tests.recipes.vavae_microdoppler.dit.dit_case import DIT, Case, configured, published_dit

FROM_FILE = {"model__dit_weights": "mine/dit.pt"}


@pytest.fixture
def case(laid) -> Case:
    return laid


def checkpoint(case, tmp_path, **entries) -> dict[str, torch.Tensor]:
    """dit.pt as published: averages, raw weights, moments and settings; names behind `module.`"""
    ema = published_dit(case.config, classes=10)
    raw = {f"module.{name}": tensor + 1 for name, tensor in ema.items()}
    whole = {"model": raw, "ema": ema, "opt": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "config": {"seed": 0}}
    torch.save(whole | entries, tmp_path / "dit.pt")
    case.asset_dirs["dit"] = tmp_path
    return ema


def test_the_averaged_weights_are_taken_and_the_class_table_is_replaced(case, tmp_path, capsys):
    case.config = configured(**FROM_FILE)
    ema = checkpoint(case, tmp_path)
    loaded = case.parts().modules["dit"].state_dict()
    trunk = {name: tensor for name, tensor in ema.items() if not assemble.OWN.fullmatch(name)}
    assert len(ema) - len(trunk) == 4 and all(torch.equal(loaded[name], tensor) for name, tensor in trunk.items())
    assert loaded["y_embedder.embedding_table.weight"].shape == (3, 16)  # two users and the null row
    assert f"{len(trunk)} tensors from the file" in capsys.readouterr().out


def test_a_file_for_another_latent_side_gets_this_sides_position_tables(case, tmp_path):
    case.config = configured(**FROM_FILE, model__image_px=16)
    checkpoint(case, tmp_path)
    case.config = configured(**FROM_FILE)
    dit = case.parts().modules["dit"]
    torch.testing.assert_close(dit.pos_embed[0], position_table(16, 8))
    assert dit.feat_rope.freqs_cos.shape == (64, 8)


def test_a_missing_tensor_of_the_trunk_stops(case, tmp_path):
    case.config = configured(**FROM_FILE)
    ema = published_dit(case.config, 10)
    del ema["blocks.1.attn.proj.bias"]
    checkpoint(case, tmp_path, ema=ema)
    with pytest.raises(Stop, match=r"1 missing.*blocks\.1\.attn\.proj\.bias"):
        case.parts()


def test_a_file_without_averages_is_refused(case, tmp_path):
    case.config = configured(**FROM_FILE)
    checkpoint(case, tmp_path, ema=None)
    with pytest.raises(Stop, match=r"holds no state dict.*in ema"):
        case.parts()


def test_what_step_2_fetched_is_converted_to_the_averages_once(case, tmp_path):
    case.config = configured(**FROM_FILE)
    folder = tmp_path / "fetched"
    folder.mkdir()
    ema = checkpoint(case, folder)
    (folder / "sources.json").write_text("{}")
    first = case.parts().base
    stamp = (folder / "dit.safetensors").stat().st_mtime_ns
    assert case.parts().base == first and (folder / "dit.safetensors").stat().st_mtime_ns == stamp
    save_file(ema, tmp_path / "plain.safetensors")
    case.config, case.asset_dirs["dit"] = configured(model__dit_weights="mine/plain.safetensors"), tmp_path
    assert case.parts().base == first


def test_a_start_from_scratch_is_the_seeds(case):
    one, again = (case.parts() for _ in range(2))
    weight, same = (parts.modules["dit"].blocks[0].attn.qkv.weight for parts in (one, again))
    assert one.base == again.base and torch.equal(weight, same)
    case.config = configured(train__seed=7)
    assert case.parts().base != one.base


def opened(parts) -> dict[str, torch.nn.Parameter]:
    adapters.attach(parts)
    adapters.set_mode(parts, training=True)
    return adapters.trainable(parts)


@pytest.mark.parametrize("trains", ["all", "table", "lora"])
def test_what_is_trained_has_the_plans_count(case, tmp_path, trains):
    case.config = configured(**FROM_FILE, model__dit_trains=trains, lora__rank=2, data__users=["ID_1", "ID_2"])
    checkpoint(case, tmp_path)
    names = opened(case.parts())
    heads = {name for name in names if name.startswith(("dit.y_embedder.", "dit.final_layer."))}
    assert sum(p.numel() for p in names.values()) == costs.dit_trainable(case.config) and len(heads) == 6
    assert {name.split(".")[0] for name in names} == {"dit"} and "dit.pos_embed" not in names
    if trains == "table":
        modulations = {f"dit.blocks.{n}.adaLN_modulation.1.{kind}" for n in range(3) for kind in ("weight", "bias")}
        assert set(names) - heads == modulations
    if trains == "lora":
        adapted = {re.sub(r"blocks\.\d+", "blocks.N", name) for name in set(names) - heads}
        layers = ("attn.qkv", "attn.proj", "mlp.w12", "mlp.w3", "adaLN_modulation.1")
        assert adapted == {f"dit.blocks.N.{layer}.lora_{ab}.weight" for layer in layers for ab in "AB"}


def test_further_tensors_are_opened_by_name(case, tmp_path):
    settings = {"model__dit_trains": "lora", "lora__rank": 2, "lora__full": [r"dit\.blocks\.2\.norm1\.weight"]}
    case.config = configured(**FROM_FILE, **settings)
    checkpoint(case, tmp_path)
    assert "dit.blocks.2.norm1.weight" in opened(case.parts())
    assert "lora.full" in costs.plan(case.config).needs[-1]
    with pytest.raises(Stop, match=r"'dit\\\\.blocks\\\\.9.*matches nothing"):
        configured(**FROM_FILE, **(settings | {"lora__full": [r"dit\.blocks\.9\..*"]}))


def test_a_neighbour_of_the_named_file_is_not_read(case, tmp_path):
    case.config = configured(**FROM_FILE)
    checkpoint(case, tmp_path)
    first = case.parts().base
    save_file({"blocks.0.x": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert case.parts().base == first


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("dit_")])
def test_the_plans_parameters_are_the_networks(preset):
    config = from_dotted(Config, PRESETS[preset])
    with torch.device("meta"):  # XL too: a second
        counts = {"dit": LightningDiT(config.model.dit_size(31)), "judge": Judge(31)}
    found, plan = costs.dit_parameters(config), costs.plan(config)
    for name, network in counts.items():
        assert found[name] == sum(p.numel() for p in network.parameters()), name
    assert (plan.parameters, plan.trainable) == (sum(found.values()), costs.dit_trainable(config))


# ---------------------------------------------------------------------------------------------- the loss


def moving(case, tmp_path, **settings):
    """Parts whose blocks do something: a fresh network is the identity, and no gradient passes its closed gates."""
    case.config = configured(**FROM_FILE, **settings)
    checkpoint(case, tmp_path)
    parts = case.parts()
    return parts, opened(parts)


def loss_of(case, parts) -> tuple[torch.Tensor, dict]:
    torch.manual_seed(3)
    return objectives.objectives(case.config, DIT)[0].loss(parts, case.batch("train", 6), 0)


def test_the_loss_is_velocity_error_and_cosine_on_normalised_latents(case, tmp_path):
    parts, _ = moving(case, tmp_path, loss__velocity_cosine=0.5, dit__label_dropout=0.0, dit__guidance=1.0)
    total, numbers = loss_of(case, parts)
    batch, reference, dit = case.batch("train", 6), parts.modules["reference"], parts.modules["dit"]
    data = (batch["latent"] - reference.mean) / reference.std
    torch.manual_seed(3)
    t = torch.sigmoid(torch.randn(6))
    noise = torch.randn_like(data)
    _ = torch.rand(6)  # labels to drop
    at = t[:, None, None, None]
    predicted = dit(at * data + (1 - at) * noise, t, batch["label"])
    squared = ((predicted - (data - noise)) ** 2).mean()
    cosine = (1 - F.cosine_similarity(predicted, data - noise, dim=1)).mean()
    torch.testing.assert_close(numbers["squared"], squared)
    torch.testing.assert_close(total, squared + 0.5 * cosine)


def test_the_contrastive_term_is_the_formula():
    # Two users on two axes, temperature 1: each image has one partner at cosine 1 and two others at 0, which is
    # log(e + 2) - 1. The last one has no label.
    features = torch.tensor([[2.0, 0], [1, 0], [0, 3], [0, 1], [5, 5]])
    found = objectives.contrastive(features, torch.tensor([0, 0, 1, 1, 9]), null=9, temperature=1.0)
    assert float(found) == pytest.approx(float(torch.log(torch.exp(torch.tensor(1.0)) + 2) - 1))
    assert float(objectives.contrastive(features, torch.tensor([0, 1, 2, 3, 9]), null=9, temperature=1.0)) == 0


def test_the_contrastive_term_reaches_the_transformer(case, tmp_path):
    found = {}
    for weight in (0.0, 0.3):
        parts, names = moving(case, tmp_path, loss__contrastive=weight, dit__label_dropout=0.0, dit__guidance=1.0)
        loss_of(case, parts)[0].backward()
        found[weight] = {name: tensor.grad.clone() for name, tensor in names.items()}
    changed = {name for name in found[0.0] if not torch.equal(found[0.0][name], found[0.3][name])}
    for block in (0, 1):  # up to the middle of three
        assert f"dit.blocks.{block}.attn.qkv.weight" in changed and f"dit.blocks.{block}.mlp.w3.weight" in changed
    assert not [name for name in changed if name.startswith(("dit.blocks.2.", "dit.final_layer."))]
    share = [(found[0.3][n] - found[0.0][n]).norm() / found[0.0][n].norm() for n in changed if ".blocks.0." in n]
    assert max(share) > 0.01


def test_recomputed_activations_give_the_same_gradients(case, tmp_path):
    found = []
    for again in (False, True):
        parts, names = moving(case, tmp_path, train__gradient_checkpointing=again)
        loss_of(case, parts)[0].backward()
        found.append({name: tensor.grad.clone() for name, tensor in names.items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_dropped_labels_train_the_row_that_guidance_subtracts(case, tmp_path):
    parts, names = moving(case, tmp_path, dit__label_dropout=0.99)
    loss_of(case, parts)[0].backward()
    gradient = names["dit.y_embedder.embedding_table.weight"].grad
    seen = []
    parts.modules["dit"].y_embedder.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    flow.guided_pair(parts.modules["dit"], torch.randn(1, 4, 8, 8), 0.5, torch.tensor([0]), 2.0)
    null = int(seen[0][1])
    assert null == 2 and gradient[null].norm() > 10 * gradient[:2].norm()
