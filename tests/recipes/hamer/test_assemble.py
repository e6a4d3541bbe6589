"""Strict loading of hamer.ckpt's twins, adapters, objectives, the frozen front, the merged export."""

import re

import omegaconf
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.core.records import LoraSpec, Manifest, Parts
from lib.network import adapters
from lib.recipes import hamer
from lib.recipes.hamer import assemble, costs, size
from lib.recipes.hamer.critic import Discriminator
from lib.recipes.hamer.mano import Mano
from lib.recipes.hamer.model import HaMeR
from tests import one_step
from tests.recipes.hamer.conftest import STAGE


@pytest.fixture
def base(network, configure, hand, tmp_path):
    """A folder with a twin of hamer.ckpt: critic, MANO's buffers, the stray flag and a configuration object inside."""

    def write(extra=None, lost=()):
        torch.manual_seed(1)
        state = dict(network(configure()).state_dict())
        state |= {f"discriminator.{name}": tensor for name, tensor in Discriminator().state_dict().items()}
        state |= {f"mano.{name}": tensor for name, tensor in Mano(hand).named_buffers()}
        state["initialized"] = torch.tensor(True)
        parameters = {"config": omegaconf.OmegaConf.create({"MODEL": {"IMAGE_SIZE": 256}})} | (extra or {})
        folder = tmp_path / "base"
        folder.mkdir(exist_ok=True)
        kept = {name: tensor for name, tensor in state.items() if name not in lost}
        content = {"state_dict": kept, "epoch": 3, "hyper_parameters": parameters}
        torch.save(content, folder / "hamer.ckpt")
        return folder

    return write


def converted(config, asset_dirs, cache):
    return assemble.stage_inputs(config, STAGE, Manifest([], cache), asset_dirs, None, cache, lambda: None)


def batch_of(config, seed: int = 0):
    torch.manual_seed(seed)
    size = config.model.crop_px
    return {
        "image": torch.randn(2, 3, size, size),
        "keypoints_2d": torch.rand(2, 21, 3),
        "keypoints_3d": torch.rand(2, 21, 4),
        "pose": torch.randn(2, 48),
        "betas": torch.randn(2, 10),
        "has_pose": torch.ones(2),
        "has_betas": torch.ones(2),
        "real_pose": torch.randn(2, 2, 48),
        "real_betas": torch.randn(2, 2, 10),
    }


def test_twin_of_the_checkpoint_loads_whole_and_drops_mano(base, configure):
    config, folder = configure(), base()
    parts = assemble.build(config, STAGE, {"base": folder})
    stored = torch.load(folder / "hamer.ckpt", weights_only=False)["state_dict"]
    for name, tensor in parts.modules["hamer"].state_dict().items():
        torch.testing.assert_close(tensor, stored[name])
    assert set(parts.modules) == {"hamer"} and parts.base


def test_checkpoint_is_converted_once_and_without_mano(base, configure, tmp_path, monkeypatch):
    config, asset_dirs = configure(), {"base": base()}
    folder = converted(config, asset_dirs, tmp_path / "cache")
    names = set(load_file(folder / assemble.CONVERTED))
    assert "backbone.pos_embed" in names and "discriminator.D_conv1.weight" in names
    assert not any(name.startswith("mano.") or name == "initialized" for name in names)
    straight = assemble.build(config, STAGE, asset_dirs)
    monkeypatch.setattr(torch, "load", None)  # nothing may be unpickled again
    assert converted(config, asset_dirs, tmp_path / "cache") == folder
    parts = assemble.build(config, STAGE, asset_dirs | {"stage_inputs": folder})
    assert parts.base == straight.base and parts.source == folder / assemble.CONVERTED


def test_safetensors_are_used_where_they_lie(base, configure, tmp_path):
    folder = base()
    save_file({"a": torch.zeros(1)}, folder / "hamer.safetensors")
    config = configure(model__checkpoint=str(folder / "hamer.safetensors"))
    assert converted(config, {"base": folder}, tmp_path / "cache") is None


def test_the_named_file_is_opened_whatever_lies_beside_it(base, configure, tmp_path):
    folder = base()
    config = configure(model__checkpoint=str(folder / "tuned.safetensors"))
    tuned = {
        name: tensor + 1
        for name, tensor in assemble.build(configure(), STAGE, {"base": folder}).modules["hamer"].state_dict().items()
    }
    save_file(tuned, folder / "tuned.safetensors")
    save_file({"a": torch.zeros(1)}, folder / "base.safetensors")
    parts = assemble.build(config, STAGE, {"base": folder})
    assert torch.equal(parts.modules["hamer"].mano_head.init_betas, tuned["mano_head.init_betas"])
    (folder / "tuned.safetensors").unlink()
    with pytest.raises(Stop, match=r"does not hold tuned\.safetensors"):
        assemble.build(config, STAGE, {"base": folder})


class Harm:
    def __reduce__(self):
        return exec, ("raise SystemExit('the file ran code')",)


def test_malicious_twin_is_refused(base, configure, tmp_path):
    with pytest.raises(Stop, match="exec"):
        assemble.build(configure(), STAGE, {"base": base(extra={"x": Harm()})})
    with pytest.raises(Stop, match="exec"):
        converted(configure(), {"base": base(extra={"x": Harm()})}, tmp_path)


def test_lost_tensor_stops_the_load(base, configure):
    with pytest.raises(Stop, match=r"1 missing \(backbone.blocks.1.mlp.fc1.weight\)"):
        assemble.build(configure(), STAGE, {"base": base(lost=("backbone.blocks.1.mlp.fc1.weight",))})


def test_loading_into_a_wrapped_network_stops_with_the_count(base, configure):
    config, folder = configure(), base()
    parts = assemble.build(config, STAGE, {"base": folder})
    adapters.attach(parts)
    adapted = sum(".base_layer." in name for name in parts.modules["hamer"].state_dict())
    with pytest.raises(Stop, match=f"{adapted} tensors of the base would be lost"):
        assemble.load(config, parts.modules["hamer"], folder / "hamer.ckpt")


def test_full_size_targets_are_162_modules_with_the_tables_parameters(hand):
    for preset, parameters in {"rank4": 2_869_684, "rank8": 5_739_368, "rank16": 11_478_736}.items():
        config = from_dotted(hamer.Config, hamer.PRESETS[preset])
        assert size.trainable_parameters(config) == parameters
    mano = Mano(hand)
    with torch.device("meta"):
        spec = LoraSpec(size.targets(config), 16, 32.0, expected=parameters)
        parts = Parts({"hamer": HaMeR(config.model, mano)}, {"hamer": spec})
        adapters.attach(parts)
    assert len([name for name in adapters.trainable(parts) if name.endswith("lora_A.weight")]) == 162


@pytest.mark.parametrize("changes", [
    {"lora__targets__backbone": ["attn"]}, {"lora__targets__backbone": [], "lora__targets__head": ["attn", "mlp"]},
    {"lora__targets__backbone": ["qkv", "fc2"], "lora__targets__head": ["to_kv", "decpose", "decshape"]},
    {"lora__targets__backbone": ["proj", "fc1", "patch"], "lora__targets__head": ["to_qkv", "to_q", "to_out"]},
    {"lora__targets__backbone": [], "lora__targets__head": ["deccam"]},
    {"lora__last_blocks": 2}, {"lora__full_readouts": True}, {"loss__adversarial": 0.1}, {"lora__rank": 5},
])  # fmt: skip
def test_closed_forms_agree_with_peft(base, configure, changes):
    config = configure(**changes)
    parts = assemble.build(config, STAGE, {"base": base()})
    assert sum(p.numel() for m in parts.modules.values() for p in m.parameters()) == costs.plan(config).parameters
    adapters.attach(parts)
    assert sum(p.numel() for p in adapters.trainable(parts).values()) == size.trainable_parameters(config)
    one_step.refuse_other_blocks(costs.plan(config).footprint, parts)


def test_frozen_features_give_the_same_output_and_run_through_nothing_trained(base, configure):
    config = configure(lora__last_blocks=1, data__augment=False)
    parts = assemble.build(config, STAGE, {"base": base()})
    adapters.attach(parts)
    batch = batch_of(config)
    whole = assemble.forward(config, parts, batch)
    kept = torch.stack([parts.frozen_features.compute({"image": image.numpy()}, 0) for image in batch["image"]])
    ahead = assemble.forward(config, parts, batch | {"frozen_features": kept[:, None]})
    torch.testing.assert_close(ahead["pred_vertices"], whole["pred_vertices"], atol=1e-6, rtol=0)
    assert not any(re.fullmatch(parts.frozen_features.frozen, name) for name in adapters.trainable(parts))
    names = [f"hamer.{name}" for name, _ in parts.modules["hamer"].named_parameters()]
    frozen = [name for name in names if re.fullmatch(parts.frozen_features.frozen, name)]
    assert len(frozen) == 3 + 2 * 12  # patch embedding, positions, two blocks of twelve tensors


def test_augmentation_forbids_keeping_frozen_features(base, configure):
    assert "augment" in assemble.build(configure(lora__last_blocks=1), STAGE, {"base": base()}).frozen_features.refused
    assert assemble.build(configure(), STAGE, {"base": base()}).frozen_features is None


def test_each_objective_moves_its_own_network(base, configure):
    config = configure(loss__adversarial=0.5)
    parts = assemble.build(config, STAGE, {"base": base()})
    adapters.attach(parts)
    batch, stored = batch_of(config), torch.load(base() / "hamer.ckpt", weights_only=False)["state_dict"]
    assert torch.equal(parts.modules["discriminator"].D_conv1.weight, stored["discriminator.D_conv1.weight"])
    fit, critic = assemble.objectives(config, STAGE)
    tensors = adapters.trainable(parts)
    for objective in (fit, critic):
        assert [name for name in tensors if any(re.fullmatch(group.tensors, name) for group in objective.groups)]
    critic.loss(parts, batch, 0)[0].backward()
    assert all(p.grad is None for name, p in tensors.items() if name.startswith("hamer."))
    assert tensors["discriminator.D_alljoints_fc1.weight"].grad.abs().max() > 0
    value, logged = fit.loss(parts, batch, 0)
    assert "loss_adversarial" in logged and value.requires_grad


def test_without_a_critic_there_is_one_objective(base, configure):
    assert [objective.name for objective in assemble.objectives(configure(), STAGE)] == ["hand"]


def test_merged_export_has_the_exact_keys_and_the_same_mesh(base, configure, tmp_path):
    config = configure()
    parts = assemble.build(config, STAGE, {"base": base()})
    names = set(parts.modules["hamer"].state_dict())
    wrapped = adapters.attach(parts)
    for name, tensor in adapters.trainable(parts).items():
        torch.nn.init.normal_(tensor, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    batch = batch_of(config)
    with torch.no_grad():
        adapted = assemble.forward(config, parts, batch)["pred_vertices"]
        parts.modules |= adapters.merge(wrapped)
        assemble.export(config, STAGE, parts, tmp_path)
        exported = configure(model__checkpoint=str(tmp_path / "hamer.safetensors"))
        merged = assemble.build(exported, STAGE, {"base": tmp_path})
        torch.testing.assert_close(assemble.forward(config, merged, batch)["pred_vertices"], adapted, atol=1e-5, rtol=0)
    assert set(load_file(tmp_path / "hamer.safetensors")) == names
    assert not any(name.startswith("mano.") for name in names)


def test_plain_peft_loads_the_adapter(base, configure, tmp_path):
    import peft

    config, folder = configure(), base()
    parts = assemble.build(config, STAGE, {"base": folder})
    wrapped = adapters.attach(parts)
    for name, tensor in adapters.trainable(parts).items():
        torch.nn.init.normal_(tensor, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    adapters.save(wrapped, tmp_path / "adapter", parts.base)
    saved = next(tmp_path.glob("adapter/**/adapter_config.json")).parent
    other = assemble.build(config, STAGE, {"base": folder}).modules["hamer"]
    with torch.no_grad():
        images = batch_of(config)["image"]
        parts.modules["hamer"].eval()
        expected = parts.modules["hamer"](images)["pred_vertices"]
        loaded = peft.PeftModel.from_pretrained(other, saved).eval()
        torch.testing.assert_close(loaded(images)["pred_vertices"], expected, atol=1e-6, rtol=0)
    assert not any("mano." in name for name in load_file(saved / "adapter_model.safetensors"))


def test_vitpose_backbone_goes_below_a_new_head_that_trains(network, configure, tmp_path):
    config = configure(model__init="vitpose", model__checkpoint="twins/vitpose_backbone.pth")
    state = network(config).backbone.state_dict()
    stored = {f"backbone.{name}": tensor for name, tensor in state.items()} | {"keypoint_head.x": torch.zeros(3)}
    torch.save({"state_dict": stored}, tmp_path / "vitpose_backbone.pth")
    parts = assemble.build(config, STAGE, {"base": tmp_path})
    assert torch.equal(parts.modules["hamer"].backbone.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])
    adapters.attach(parts)
    head = [name for name in adapters.trainable(parts) if name.startswith("hamer.mano_head.")]
    assert len(head) == len(list(parts.modules["hamer"].mano_head.parameters()))
    assert sum(p.numel() for p in adapters.trainable(parts).values()) == size.trainable_parameters(config)
