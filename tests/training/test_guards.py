"""The guards round a training are really asked: each fault is put into a run of the toy recipe, and the run stops."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lib import recipes
from lib.core.errors import Stop
from lib.core.records import Group, Objective
from lib.core.run import existing
from lib.network import adapters, audit, lineage, sharding
from lib.network.lineage import Lineage
from lib.recipes.toy import recipe
from lib.training import loop, memory, one_step, stages


def said(step, capsys) -> str:
    """What step 4 says when it stops; it must not have trained to the end."""
    capsys.readouterr()
    assert step(4) in (1, 2)
    return capsys.readouterr().err


def test_attaching_that_changes_the_base_stops(step, prepared, capsys, monkeypatch):
    prepared("train.epochs=1")
    attach = adapters.attach

    def and_change(parts):
        wrapped = attach(parts)
        with torch.no_grad():
            next(p for name, p in parts.modules["net"].named_parameters() if name.endswith("bias")).add_(0.5)
        return wrapped

    monkeypatch.setattr(adapters, "attach", and_change)
    assert "the base was changed" in said(step, capsys)


def test_a_loss_that_does_not_reach_an_adapter_stops(step, prepared, capsys, monkeypatch):
    prepared("train.epochs=1")

    def first_layer_alone(parts, batch, step):
        value = parts.modules["net"][0](batch["x"]).square().mean()
        return value, {"loss_square": value}

    monkeypatch.setattr(recipe, "squared_error", lambda fault: first_layer_alone)
    assert "net.2.lora_B.weight gets no gradient" in said(step, capsys)


def test_an_operator_without_a_derivative_stops(step, prepared, capsys, monkeypatch):
    """The other half of the loss has one, so no tensor is without a gradient."""
    prepared("train.epochs=1")
    library, loss = torch.library.Library("tests", "FRAGMENT"), recipe.squared_error("")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CPU")

    def half_of_it(parts, batch, step):
        value, numbers = loss(parts, batch, step)
        return value + torch.ops.tests.twice(value), numbers

    monkeypatch.setattr(recipe, "squared_error", lambda fault: half_of_it)
    assert "the operator tests::twice has no derivative" in said(step, capsys)


def test_a_step_that_moves_something_frozen_stops(step, prepared, capsys, monkeypatch):
    prepared("train.epochs=1")
    update = one_step.update

    def and_drift(training, *arguments):
        with torch.no_grad():
            next(p for p in training.parts.modules["net"].parameters() if not p.requires_grad).mul_(1.001)
        return update(training, *arguments)

    monkeypatch.setattr(one_step, "update", and_drift)
    assert "the first step moved 1 frozen tensor" in said(step, capsys)


@pytest.mark.parametrize(("patterns", "words"), [
    ((r"net\.0\..*",), "in no optimiser group"), ((r"net\..*", r"net\.0\..*"), "is in the groups"),
    ((r"net\..*", "nothing"), "matches no trained tensor"),
])  # fmt: skip
def test_groups_that_do_not_cover_what_is_trained_stop(step, prepared, capsys, monkeypatch, patterns, words):
    prepared("train.epochs=1")
    groups = tuple(Group(f"g{number}", pattern, 1e-3) for number, pattern in enumerate(patterns))
    monkeypatch.setattr(
        recipe, "objectives", lambda config, stage: [Objective("fit", recipe.squared_error(""), groups)]
    )
    assert words in said(step, capsys)


def test_a_rate_that_rounds_to_nothing_stops(step, prepared, capsys):
    prepared("train.epochs=8", "train.lr=1e-14")
    assert "that had a gradient have moved" in said(step, capsys)


def test_what_stands_still_is_counted_over_what_had_a_gradient():
    tensors = {"net.a": torch.ones(300), "net.b": torch.ones(300)}
    movement = audit.Movement(tensors)
    movement.pulled["net.a"][:100] = True
    movement.refuse_standing_still(tensors | {"net.a": torch.cat([torch.zeros(100), torch.ones(200)])})
    with pytest.raises(Stop, match=r"only 50\.00 % of the parameters of net\.a that had a gradient have moved"):
        movement.refuse_standing_still(tensors | {"net.a": torch.cat([torch.zeros(50), torch.ones(250)])})


def test_what_was_judged_in_an_earlier_session_is_watched_no_more():
    tensors = {"net.a": torch.ones(300)}
    training = SimpleNamespace(
        config=SimpleNamespace(warmup_ratio=0.1), stage=SimpleNamespace(steps=100), step=10 + audit.SETTLED_STEPS,
        movement=audit.Movement(tensors), skipped=0, objectives=[], tensors=tensors,
    )  # fmt: skip
    training.movement.pulled["net.a"][:] = True
    with pytest.raises(Stop, match="have moved"):
        loop.check_movement(training)
    training.step += 1
    loop.check_movement(training)
    assert training.movement is None


@pytest.mark.parametrize(("module", "guard"), [
    (stages, "refuse_uneven"), (stages, "refuse_other_places"), (loop, "refuse_half_precision"),
    (one_step, "count_bad_steps"), (stages, "chosen"), (sharding, "complete"),
])  # fmt: skip
def test_what_needs_more_than_one_process_to_happen_is_asked_for(step, prepared, capsys, monkeypatch, module, guard):
    """The faults themselves are put in where several processes train; here it is looked at whether anybody asks."""
    prepared("train.epochs=1")

    def asked(*arguments):
        raise Stop(f"{guard} was asked")

    monkeypatch.setattr(module, guard, asked)
    assert f"{guard} was asked" in said(step, capsys)


def test_what_is_trained_and_spread_is_refused_with_a_scaler(monkeypatch):
    training = SimpleNamespace(tensors={"net.a": torch.ones(2)}, accelerator=SimpleNamespace(scaler=object()))
    loop.refuse_half_precision(training)
    monkeypatch.setattr(loop.sharding, "is_spread", lambda tensor: True)
    with pytest.raises(Stop, match=r"net\.a is trained and spread over the processes, which fp16 does not allow"):
        loop.refuse_half_precision(training)
    training.accelerator.scaler = None
    loop.refuse_half_precision(training)


def test_dropout_is_on_in_training_and_off_wherever_something_is_scored(step, prepared, monkeypatch, capsys, tmp_path):
    """The probe of memory and every step train; every evaluation, step 5 and --predict do not."""
    prepared("train.epochs=1", "lora.dropout=0.5")
    monkeypatch.setattr(memory, "probe", lambda training: memory.train_on(training, memory.largest_sample(training)))
    modes: dict[str, list[bool]] = {"train": [], "score": [], "predict": [], "draft": []}

    def note(what, parts):
        if parts is not None:
            modes[what] += [
                m.training for n, m in parts.modules["net"].named_modules() if n.endswith("dropout.default")
            ]

    def noting(what, function, place):
        return lambda *arguments: note(what, arguments[place]) or function(*arguments)

    loss = recipe.squared_error("")
    monkeypatch.setattr(recipe, "squared_error", lambda fault: noting("train", loss, 0))
    monkeypatch.setattr(recipe, "score_batch", noting("score", recipe.score_batch, 2))
    monkeypatch.setattr(recipe, "predict", noting("predict", recipe.predict, 2))
    monkeypatch.setitem(recipes.DEFAULTS, "propose", lambda config, model, *wishes: note("draft", model()))
    assert step(4) == 0 and step(5) == 0
    assert step(5, "--predict", str(tmp_path), "--out", str(tmp_path / "out")) == 0
    capsys.readouterr()
    assert step(2, "--propose", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "drafted by the adapted model of step-000005" in shown and shown.count("  base (") == 1
    assert all(modes.values()) and all(modes["train"])
    assert not any(modes["score"] + modes["predict"] + modes["draft"])


def test_an_asset_that_has_seen_the_test_side_stops(step, prepared, capsys, monkeypatch):
    prepared("train.epochs=1")
    monkeypatch.setattr(lineage, "read", lambda folder: Lineage({"group": {"g5", "g0"}}))
    assert "the asset base was trained on 1 group and 0 files held out here (g5)" in said(step, capsys)


@pytest.mark.parametrize("number", [4, 5])
def test_a_sample_that_is_scored_twice_stops_where_it_chooses_and_where_it_counts(
    step, prepared, capsys, monkeypatch, number
):
    prepared("train.epochs=1", last=number - 1)
    score = recipe.score_batch
    monkeypatch.setattr(recipe, "score_batch", lambda *given: [replace(row, sample_id="s0") for row in score(*given)])
    assert step(number) == 1
    assert "should have been scored once each" in capsys.readouterr().err


def test_a_training_names_the_checkpoint_that_it_made(prepared, folder):
    prepared("train.epochs=1", last=4)
    assert list(existing(folder / "4_train.json")["outputs"]) == ["train/adapt/step-000005"]
