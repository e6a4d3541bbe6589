"""A training whose network is spread over processes is the same training: numbers, checkpoints, short memory."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from lib.core.errors import Stop
from lib.core.hashes import folder_fault
from lib.core.run import existing, read_json, read_log, write_record
from lib.network import checkpoint, pieces, sharding
from lib.training import loop
from tests import ranks

pytestmark = pytest.mark.long

SETTINGS = ("train.epochs=2", "train.micro_batch=1", "eval.select_samples=3", "train.log_seconds=0")


def files_of(folder):
    """Every file of the last checkpoint but its state, and the log, by name."""
    last = max(folder.glob("train/adapt/step-*"))
    names = [p for p in last.rglob("*") if p.is_file() and p.name not in ("state.json", "sha256.json")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in [*names, folder / "train/adapt/log.jsonl"]}


def test_adapters_on_a_spread_base_are_trained_as_on_a_whole_one_bit_for_bit(step, prepared, folder, tmp_path):
    prepared(*SETTINGS)
    codes, said = ranks.steps(2, tmp_path, 4)
    assert codes == [0, 0], said
    plain = files_of(folder)
    assert step(1, "train.shard=on") == 0
    codes, said = ranks.steps(2, tmp_path, 4, "--force")
    assert codes == [0, 0] and "cpu, 2 processes" in said, said
    assert files_of(folder) == plain and "adapter_model.safetensors" in plain


def test_one_process_alone_can_shard_too_and_switching_it_moves_nothing(step, prepared, folder):
    prepared(*SETTINGS, last=4)
    plain = files_of(folder)
    assert step(1, "train.shard=on") == 0 and step(4) == 0  # complete: nothing that was made depends on it
    assert files_of(folder) == plain
    assert step(4, "--force") == 0 and files_of(folder) == plain
    assert step(5) == 0
    assert not torch.distributed.is_initialized()


FULL = (*SETTINGS, "train.ema=0.5", "train.checkpoint_steps=4", "train.keep_checkpoints=9", "lora.full=['net\\..*']")


def losses(folder):
    return [one["loss_objective"] for one in read_log(folder / "train/adapt/log.jsonl") if "eval" not in one]


def tensors(folder, step=10):
    """Every trained tensor of a checkpoint and every moment, whole, by name: written by one process or by several."""
    found, made = {}, folder / f"train/adapt/step-{step:06d}"
    for file in ("weights", "optim", "adapter/adapter_model"):
        path = made / f"{file}.safetensors"
        found |= load_file(path) if path.exists() else {}
    cut = {name: torch.empty(shape) for name, shape in pieces.shapes(made).items()}
    if cut:
        pieces.read(made, cut)
    return found | cut


def close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


def test_what_is_trained_and_spread_is_trained_the_same_and_goes_on_with_any_number_of_processes(
    step, prepared, folder, tmp_path
):
    prepared(*FULL)
    assert step(4) == 0
    plain, whole = losses(folder), tensors(folder)
    assert step(1, "train.shard=on") == 0
    codes, said = ranks.steps(2, tmp_path, 4, "--force")
    assert codes == [0, 0], said
    assert losses(folder) == pytest.approx(plain, rel=1e-5)
    close(tensors(folder), whole)
    last = folder / "train/adapt/step-000010"
    assert {"net.0.weight", "net.2.bias", "raw/net.0.weight", "fit/all/net.0.weight/exp_avg"} <= set(
        pieces.shapes(last)
    )
    assert sorted(p.name for p in last.rglob("*.tmp")) == [] and folder_fault(last) == ""
    assert step(5) == 0 and step(5, "--export", "merged") == 0  # by one process, which holds all of it
    for count, switch in ((1, "off"), (4, "on"), (2, "off")):
        cut_back(folder)
        assert step(1, f"train.shard={switch}") == 0
        codes, said = ranks.steps(count, tmp_path, 4)
        assert codes == [0] * count and "going on from step-000004" in said, said
        assert losses(folder) == pytest.approx(plain, rel=1e-5), (count, switch)
        close(tensors(folder), whole)


def cut_back(folder):
    """As after a kill in step 7: the checkpoint of step 4 is the newest one."""
    for path in folder.glob("train/adapt/step-*"):
        if path.name > "step-000004":
            shutil.rmtree(path)
    (folder / "train/adapt/done.json").unlink()
    write_record(folder / "4_train.json", existing(folder / "4_train.json") | {"state": "paused"})


def test_all_processes_killed_at_once_another_number_of_them_goes_on_to_the_same_losses(
    step, prepared, folder, tmp_path
):
    prepared(*FULL, "train.shard=on", "train.checkpoint_steps=2", "train.fault=slow")
    assert step(4) == 0
    whole = losses(folder)
    children = ranks.started(2, ranks.one_step, tmp_path, 4, ("--force",))
    until(lambda: not list(folder.glob("train/adapt/step-*")))  # what the first training left is gone
    until((folder / "train/adapt/step-000004").exists)
    for child in children:
        child.kill()
    assert [child.join() or child.exitcode for child in children] == [-9, -9]
    assert not (folder / "train/adapt/done.json").exists()
    codes, said = ranks.steps(4, tmp_path, 4)
    assert codes == [0] * 4 and "going on from step-00000" in said, said
    assert losses(folder) == pytest.approx(whole, rel=1e-5)


def until(happened):
    patience = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < patience
        time.sleep(0.02)


def test_a_harmed_piece_makes_the_one_before_the_newest(step, prepared, folder, tmp_path):
    prepared(*FULL, "train.shard=on")
    codes, said = ranks.steps(2, tmp_path, 4)
    assert codes == [0, 0], said
    stage = folder / "train/adapt"
    piece = max((stage / "step-000010" / pieces.FOLDER).iterdir())
    piece.write_bytes(piece.read_bytes()[:-1] + b"\x01")
    told = []
    assert checkpoint.newest(stage, told.append) == stage / "step-000008"
    assert told == [
        f"checkpoint step-000010 is broken (pieces/{piece.name} does not have the hash that was stored); "
        "falling back to the one before"
    ]


def test_a_bad_number_in_the_rows_of_one_process_is_met_by_all(step, prepared, folder, tmp_path):
    prepared(*FULL, "train.shard=on", "train.fault=nan-3", "train.stop_after_bad_steps=2")
    codes, said = ranks.steps(2, tmp_path, 4)
    assert codes == [1, 1] and said.count("fit is not finite, batch skipped: s") == 4, said
    assert "2 steps in a row were not finite" in said


def test_out_of_memory_on_one_process_ends_all_and_the_step_goes_on_by_itself_with_less(prepared, folder, tmp_path):
    """The launcher's children: the last of them runs out of memory at step 6, while the others wait for it."""
    prepared("train.epochs=2", "train.fault=memory-5", "train.shard=on", "train.checkpoint_steps=2")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")}
    command = [sys.executable, str(ranks.ROOT / "step4_train.py"), "--run", "r", "--processes", "2", "--force"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("step 6: out of memory; micro_batch is now 1, the global batch stays 4") == 1
    assert "going on from step-000005" in ended.stdout and len(losses(folder)) == 10
    record = read_json(folder / "run.json")
    assert record["micro_batch"] == 1 and record["changes"] == [
        {"step": 6, "what": "micro_batch is now 1, the global batch stays 4"}
    ]
    assert read_json(folder / "train/adapt/step-000010/state.json")["micro_batch"] == 1
    assert not list(folder.rglob(".*.tmp"))


def test_a_spread_network_is_scored_and_predicts_in_as_many_processes_as_alone(step, prepared, folder, tmp_path):
    prepared(*FULL, "train.shard=on", "eval.figures=3", last=4)
    assert step(5) == 0
    (tmp_path / "inputs").mkdir()
    assert step(5, "--predict", "inputs", "--out", "alone") == 0
    names = ("scores.json", "per_sample.csv")
    alone = [(folder / "eval" / name).read_bytes() for name in names]
    codes, said = ranks.steps(2, tmp_path, 5, "--force", "--predict", "inputs", "--out", "together")
    assert codes == [0, 0], said
    assert [(folder / "eval" / name).read_bytes() for name in names] == alone
    assert files_below(tmp_path / "together") == files_below(tmp_path / "alone") != {}
    assert said.count("adapted: 20 samples") == 1 and not list(folder.glob("eval/partial/*"))


def test_on_a_slow_disk_the_pieces_of_a_checkpoint_wait_for_those_of_the_one_before(
    step, prepared, folder, monkeypatch
):
    """One process writes checkpoints behind its back, from the folder that the next pieces would be written into."""
    prepared(*FULL, "train.shard=on", "train.checkpoint_steps=1")
    at_once = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *words: time.sleep(0.2) or at_once(*words))
    assert step(4) == 0
    assert [folder_fault(one) for one in sorted(folder.glob("train/adapt/step-*"))] == [""] * 9


def test_an_export_is_left_to_one_process(step, prepared, folder, tmp_path):
    prepared(*FULL, "train.shard=on", last=5)
    codes, said = ranks.steps(2, tmp_path, 5, "--export", "merged")
    assert codes == [2, 2] and "--export is the work of one process, and this is one of 2" in said, said
    assert step(5, "--processes", "2", "--force", "--export", "merged") == 0 and (folder / "export/merged").is_dir()


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_trained_and_spread_tensors_are_refused_in_fp16(monkeypatch):
    monkeypatch.setattr(sharding, "is_spread", lambda tensor: tensor == "spread")
    training = SimpleNamespace(tensors={"net.a": "whole"}, accelerator=SimpleNamespace(scaler=object()))
    loop.refuse_half_precision(training)
    training.tensors["net.b"] = "spread"
    with pytest.raises(Stop, match=r"net\.b is trained and spread over the processes, which fp16 does not allow"):
        loop.refuse_half_precision(training)
