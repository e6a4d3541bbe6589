"""Adapters: named, counted, bound to their base, and the same through plain PEFT."""

import json

import pytest
import torch
from torch import nn

from lib.core.errors import Stop
from lib.core.records import LoraSpec, Parts
from lib.network import adapters

BASE = "a" * 64


class Blocks(nn.Module):
    """Four blocks of a linear layer, a norm and a convolution, with names as transformers have them."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"qkv": nn.Linear(6, 6), "norm": nn.LayerNorm(6), "drop": nn.Dropout(0.5)}) for _ in range(4)
        )
        self.head = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):  # (samples, 6)
        for block in self.blocks:
            x = x + block["drop"](block["norm"](block["qkv"](x)))
        return self.head(x[:, None, None])


def made(*targets, full=(), expected=None, dropout=0.0, rank=2, alpha=4.0, attach=True, **peft):
    torch.manual_seed(5)
    parts = Parts(
        {"net": Blocks()},
        {"net": LoraSpec(targets, rank, alpha, dropout, peft, expected)} if targets else {},
        full,
        base=BASE,
    )
    return parts, adapters.attach(parts) if attach else {}


def disturb(parts):
    """As if trained: every trained tensor gets other numbers."""
    torch.manual_seed(6)
    with torch.no_grad():
        for tensor in adapters.trainable(parts).values():
            tensor.copy_(0.2 * torch.randn_like(tensor))


X = torch.linspace(-1, 1, 18).reshape(3, 6)


def output(module):
    module.eval()
    with torch.no_grad():
        return module(X)


@pytest.mark.parametrize("kind", ["pixel", "channel", "none"])
def test_before_a_convolution_pixels_whole_channels_or_nothing_is_dropped(kind):
    network = torch.nn.Sequential(torch.nn.Conv2d(8, 2, 1), torch.nn.Linear(6, 6))
    parts = Parts({"net": network}, {"net": LoraSpec(("0", "1"), 2, 4.0, 0.5, conv_dropout=kind)}, base=BASE)
    adapters.attach(parts)
    adapters.set_mode(parts, training=True)
    convolution, linear = (network[i].lora_dropout["default"] for i in (0, 1))
    dropped = convolution(torch.ones(4, 8, 5, 6)) == 0
    by_channel = dropped.flatten(2).float().mean(2)
    assert {"pixel": 0.3 < by_channel.mean() < 0.7 and by_channel.std() < 0.3, "none": not dropped.any()}.get(
        kind, bool(((by_channel == 0) | (by_channel == 1)).all() and 0 < by_channel.mean() < 1)
    )
    assert type(linear) is torch.nn.Dropout
    adapters.set_mode(parts, training=False)
    assert (convolution(torch.ones(1, 8, 5, 6)) == 1).all()


def test_a_target_that_matches_nothing_names_the_near_miss():
    with pytest.raises(Stop) as stopped:
        made(r"blocks\.0\.qvk")
    assert (
        r"'blocks\\.0\\.qvk' matches no layer of net" in stopped.value.cause and "blocks.0.qkv" in stopped.value.cause
    )
    with pytest.raises(Stop, match="matches no layer"):
        made(r"qkv")  # part of a name is not a name
    with pytest.raises(Stop, match=r"haed.* of fully trained tensors matches none"):
        made(r"blocks\.0\.qkv", full=(r"net\.haed\..*",))


def test_counts_follow_from_rank_and_shapes_and_a_wrong_table_stops():
    count = 2 * 2 * (6 + 6)  # two layers, rank 2, A (2, 6) and B (6, 2)
    parts, _ = made(r"blocks\.[01]\.qkv", expected=count)
    assert sum(p.numel() for p in adapters.trainable(parts).values()) == count
    with pytest.raises(Stop, match=f"{count} trainable parameters after attaching, the recipe's table says 49"):
        made(r"blocks\.[01]\.qkv", expected=49)


def test_the_table_lists_every_adapted_layer_with_its_share():
    parts, _ = made(r"blocks\.[01]\.qkv", full=(r"net\.head\..*",))
    total = sum(p.numel() for p in parts.modules["net"].parameters())
    assert adapters.table(parts) == [
        ("net.blocks.0.qkv", 24, 24 / total),
        ("net.blocks.1.qkv", 24, 24 / total),
        ("net.head", 20, 20 / total),
    ]


def test_attaching_changes_no_output_and_is_the_same_each_time():
    parts, _ = made(r"blocks\.\d\.qkv", "head", attach=False)
    before = output(parts.modules["net"])
    adapters.attach(parts)
    assert torch.equal(output(parts.modules["net"]), before)
    again, _ = made(r"blocks\.\d\.qkv", "head")
    assert all(
        torch.equal(one, other)
        for one, other in zip(adapters.trainable(parts).values(), adapters.trainable(again).values(), strict=True)
    )


def test_names_hide_peft():
    parts, _ = made(r"blocks\.0\.qkv", full=(r"net\.blocks\.0\.qkv\.bias",))
    assert list(adapters.trainable(parts)) == [
        "net.blocks.0.qkv.bias",
        "net.blocks.0.qkv.lora_A.weight",
        "net.blocks.0.qkv.lora_B.weight",
    ]


def test_dropout_is_on_for_adapters_and_what_is_trained_and_off_for_what_is_frozen():
    parts, _ = made(r"blocks\.0\.qkv", dropout=0.5, full=(r"net\.blocks\.1\..*",))
    adapters.set_mode(parts, training=True)
    state = {adapters.plain_name(name): layer.training for name, layer in parts.modules["net"].named_modules()}
    assert state["blocks.0.qkv.lora_dropout"] and state["blocks.1.norm"] and state["blocks.1.drop"]
    assert not state["blocks.0.norm"] and not state["blocks.0.drop"] and not state["blocks.2.drop"]
    modes = adapters.Modes(parts)
    adapters.set_mode(parts, training=False)
    assert not any(layer.training for layer in parts.modules["net"].modules())
    parts.modules["net"].blocks[0].norm.train()  # a frozen layer that something left in the wrong mode
    modes.set()
    named = parts.modules["net"].named_modules()
    assert {adapters.plain_name(name): layer.training for name, layer in named} == state


@pytest.mark.parametrize("peft", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_plain_peft_loads_the_saved_adapter(tmp_path, peft):
    from peft import PeftModel

    parts, wrapped = made(r"blocks\.\d\.qkv", **peft)
    disturb(parts)
    adapters.save(wrapped, tmp_path / "adapter", BASE)
    base, _ = made(attach=False)
    loaded = PeftModel.from_pretrained(base.modules["net"], tmp_path / "adapter")
    assert torch.allclose(output(loaded), output(parts.modules["net"]), atol=1e-6)
    assert not torch.allclose(output(made(attach=False)[0].modules["net"]), output(parts.modules["net"]), atol=1e-2)


def test_merged_weights_give_the_adapted_output_under_the_original_names(tmp_path):
    parts, wrapped = made(r"blocks\.\d\.qkv", "head")
    disturb(parts)
    adapted = output(parts.modules["net"])
    merged = adapters.merge(wrapped)["net"]
    assert torch.allclose(output(merged), adapted, atol=1e-5)
    assert merged.state_dict().keys() == Blocks().state_dict().keys()


def test_load_gives_back_what_was_saved_bit_for_bit(tmp_path):
    parts, wrapped = made(r"blocks\.\d\.qkv")
    disturb(parts)
    adapters.save(wrapped, tmp_path / "adapter", BASE)
    again, others = made(r"blocks\.\d\.qkv")
    adapters.load(others, tmp_path / "adapter", BASE)
    for one, other in zip(adapters.trainable(parts).values(), adapters.trainable(again).values(), strict=True):
        assert torch.equal(one, other)


def test_layers_are_saved_in_a_fixed_order(tmp_path):
    """PEFT writes its set of layers in an order that differs between processes; two checkpoints must not differ in
    that.
    """
    _, wrapped = made(r"blocks\.\d\.qkv", "head")
    adapters.save(wrapped, tmp_path, BASE)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == [
        *(f"blocks.{i}.qkv" for i in range(4)),
        "head",
    ]


@pytest.mark.parametrize("other, said", [
    ({"rank": 3}, "trained with r=2, the run says 3"),
    ({"alpha": 8.0}, "trained with lora_alpha=4.0, the run says 8.0"),
    ({"use_rslora": True}, "use_rslora=False, the run says True"),
    ({"rank_pattern": {r"blocks.0.qkv": 1}}, r"the adapter has 2 tensors of another shape, e\.g\. .*blocks\.0\.qkv"),
])  # fmt: skip
def test_an_adapter_of_other_settings_is_refused(tmp_path, other, said):
    _, wrapped = made(r"blocks\.\d\.qkv")
    adapters.save(wrapped, tmp_path, BASE)
    _, others = made(r"blocks\.\d\.qkv", **other)
    with pytest.raises(Stop, match=said):
        adapters.load(others, tmp_path, BASE)


def test_an_adapter_of_another_base_or_without_a_binding_is_refused(tmp_path):
    _, wrapped = made(r"blocks\.\d\.qkv")
    adapters.save(wrapped, tmp_path, BASE)
    with pytest.raises(Stop, match=r"trained on another base \(aaaaaaaaaaaa, loaded is bbbbbbbbbbbb\)"):
        adapters.load(wrapped, tmp_path, "b" * 64)
    (tmp_path / adapters.BINDING).unlink()
    with pytest.raises(Stop, match="no fingerprint"):
        adapters.load(wrapped, tmp_path, BASE)


def test_missing_and_unknown_tensors_are_counted(tmp_path):
    _, wrapped = made(r"blocks\.[01]\.qkv")
    adapters.save(wrapped, tmp_path, BASE)
    _, others = made(r"blocks\.[12]\.qkv")
    with pytest.raises(Stop, match="2 missing and 2 unknown tensors"):
        adapters.load(others, tmp_path, BASE)
