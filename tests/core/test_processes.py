"""One, two and four processes are the same training; a stop, a crash and a refusal become the step's exit code."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib.core import processes
from lib.core.errors import Stop
from lib.core.run import SCRIPTS, read_json, read_log, write_record
from lib.core.session import Clock

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("train.epochs=2", "train.micro_batch=1", "train.checkpoint_steps=4")


@pytest.fixture
def toy(tmp_path):
    """toy(4, words, …) starts a step of the run in a process of its own."""

    def start(number: int, *words: str, **environment: str) -> subprocess.Popen:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "KAGGLE_"))}
        return subprocess.Popen(
            [sys.executable, str(ROOT / SCRIPTS[number]), "--run", "r", *words],
            cwd=tmp_path,
            env=kept | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def end(child: subprocess.Popen) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def losses(folder):
    return [
        record["loss_objective"]
        for record in read_log(folder / "train" / "adapt" / "log.jsonl")
        if "eval" not in record
    ]


def evaluations(folder):
    return [
        record["eval"]["error"] for record in read_log(folder / "train" / "adapt" / "log.jsonl") if "eval" in record
    ]


def running(folder):
    """What the last checkpoint holds of running statistics."""
    return load_file(folder / "train" / "adapt" / "step-000010" / "weights.safetensors")


def test_four_processes_train_as_one_and_two_go_on_as_one(toy, step, prepared, folder):
    """That two train as one to the end, test_two_machines_through_accelerate_launch shows."""
    prepared(*SETTINGS, "session.reserve_seconds=2", "train.running=true")
    assert step(4) == 0
    one, scored, means = losses(folder), evaluations(folder), running(folder)
    assert means["seen.count"] == 10 and means["seen.mean"].abs().max() > 0.01
    code, out, err = end(toy(4, "--force", "--processes", "4"))
    assert code == 0, err
    assert "cpu, 4 processes" in out
    assert losses(folder) == pytest.approx(one, rel=1e-5) and evaluations(folder) == pytest.approx(scored, rel=1e-5)
    torch.testing.assert_close(running(folder), means)
    code, out, err = end(toy(4, "--force", "--processes", "2", "--time-limit", "3s", PIPELINE_SESSION_START="0"))
    assert code == 75 and "paused at 1 of 10 steps" in out and "Traceback" not in err, err
    assert "cpu, 2 processes" in out
    assert step(4) == 0
    assert losses(folder) == pytest.approx(one, rel=1e-5)
    assert read_json(folder / "run.json")["processes"] == 1


def test_a_signal_to_the_step_pauses_all_its_ranks(toy, prepared, folder):
    prepared("train.epochs=200", "train.fault=slow", "train.evaluate_epochs=0", "train.log_seconds=0")
    child = toy(4, "--processes", "2")
    seen = until(child, "train adapt")
    child.send_signal(signal.SIGTERM)
    code, out, err = end(child)
    assert code == 75 and "Go on with: python step4_train.py --run r" in out and "Traceback" not in err, (
        seen + out + err
    )
    stamp = read_json(folder / "4_train.json")
    assert stamp["state"] == "paused" and 0 < stamp["progress"]["done"] < 1000
    assert (folder / "train" / "adapt" / f"step-{stamp['progress']['done']:06d}").is_dir()


def until(child: subprocess.Popen, text: str) -> str:
    seen = ""
    for line in child.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came: {seen}{child.stderr.read()}")


def test_ranks_whose_step_was_killed_end_within_five_seconds(toy, prepared, folder):
    prepared("train.epochs=2000", "train.fault=slow", "train.evaluate_epochs=0", "train.log_seconds=0")
    child = toy(4, "--processes", "2")
    until(child, "train adapt")
    ranks = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_rank(pid, folder)]
    assert len(ranks) == 2
    child.kill()
    ended = time.monotonic() + 5
    while (
        any(is_rank(pid, folder) for pid in ranks) and time.monotonic() < ended + 15
    ):  # 5 s are promised; a loaded machine gets more
        time.sleep(0.1)
    assert not any(is_rank(pid, folder) for pid in ranks)
    child.communicate()


def is_rank(pid: int, folder: Path) -> bool:
    """Is a process a living rank of this run?"""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"PIPELINE_LOCK={folder}/.lock".encode() in environment and b"\0LOCAL_RANK=" in environment


def test_an_out_of_memory_on_one_rank_changes_all_alike(toy, prepared, folder):
    prepared("train.epochs=2", "train.fault=memory-5", "train.micro_batch=2", "lora.dropout=0.0")
    code, out, err = end(toy(4, "--processes", "2"))
    assert code == 0, err
    assert out.count("step 6: out of memory; micro_batch is now 1") == 2
    assert read_json(folder / "run.json")["micro_batch"] == 1 and len(losses(folder)) == 10


def test_bad_numbers_keep_their_exit_code_and_one_sentence(toy, prepared, folder):
    prepared("train.epochs=2", "train.fault=nan-3", "train.stop_after_bad_steps=2")
    code, out, err = end(toy(4, "--processes", "2"))
    assert (
        code == 1 and err.count("error: ") == 1 and "2 steps in a row were not finite" in err and "Traceback" not in err
    )
    assert out.count("fit is not finite, batch skipped: s") == 4  # two steps, and each rank names its own samples


def test_a_crash_after_the_first_stamp_is_no_pause(tmp_path, monkeypatch):
    """The stamp says "paused" from the first step on; only rank 0's own word makes it one."""
    from lib.core.run import Run

    monkeypatch.setattr(processes, "run_child", lambda *arguments: 1)
    run = Run(tmp_path, "r")
    run.folder.mkdir(parents=True)
    write_record(run.stamp(4), {"state": "paused"})
    with pytest.raises(Stop, match=r"failed .* or was killed") as stopped:
        processes.launch(run, 2, 1, [], Clock(None, 1, 0.0))
    assert stopped.value.code == 1
    monkeypatch.setattr(
        processes,
        "run_child",
        lambda command, clock, environment, ask: Path(environment["PIPELINE_OUTCOME"]).write_text("75"),
    )
    assert processes.launch(run, 2, 1, [], Clock(None, 1, 0.0)) == 75
    assert not (run.folder / ".outcome.tmp").exists()


def test_the_first_rank_notes_the_outcome_and_a_pause_ends_no_other_rank(tmp_path, monkeypatch):
    assert processes.leave(75) == 75
    outcome = tmp_path / "outcome"
    monkeypatch.setenv("PIPELINE_OUTCOME", str(outcome))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (
        processes.leave(1) == 1 and not outcome.exists()
    )  # rank 0 goes on without knowing: this code ends all of them
    monkeypatch.setenv("RANK", "0")
    assert processes.leave(2) == 2 and outcome.read_text() == "2"
    assert processes.leave(75) == 0 and outcome.read_text() == "75"
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert processes.leave(1) == 1 and outcome.read_text() == "1"  # the first of another machine


def test_two_machines_through_accelerate_launch(tmp_path, prepared, step, folder):
    """As on GPUs, with both machines on this one."""
    prepared(*SETTINGS)
    assert step(4) == 0
    one, scored = losses(folder), evaluations(folder)
    port = processes.free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "KAGGLE_"))} | {
        "OMP_NUM_THREADS": "1",
    }
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_machines",
        "2",
        "--num_processes",
        "2",
        "--multi_gpu",
    ]
    launch += [
        "--main_process_ip",
        "127.0.0.1",
        "--main_process_port",
        str(port),
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    children = [
        subprocess.Popen(
            [*launch, "--machine_rank", str(rank), str(ROOT / SCRIPTS[4]), "--run", "r", "--force"],
            cwd=tmp_path, env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    ended = [end(child) for child in children]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "cpu, 2 processes" in ended[0][1]
    assert losses(folder) == pytest.approx(one, rel=1e-5) and evaluations(folder) == pytest.approx(scored, rel=1e-5)


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_accelerates_own_sharding_is_refused_and_ours_is_named(step, prepared, capsys, monkeypatch, name):
    prepared("train.epochs=1")
    monkeypatch.setenv(name, "false")
    assert step(4) == 0
    monkeypatch.setenv(name, "true")
    assert step(4, "--force") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith(f"error: {name} is set") and "train.shard=on" in lines[1] and len(lines) == 2


def test_processes_that_see_different_checkpoints_stop(monkeypatch):
    import accelerate.utils

    from lib.training import stages

    monkeypatch.setattr(accelerate.utils, "gather_object", lambda mine: [*mine, "step-000004"])
    stages.refuse_other_places(None, Path("step-000004"))
    with pytest.raises(Stop, match=r"different checkpoints \(none, step-000004\)"):
        stages.refuse_other_places(None, None)


CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *ignored: sys.exit(75))
with open(sys.argv[1], "w") as file:
    print(os.environ["PIPELINE_SESSION_START"], os.environ["PIPELINE_PARENT"], file=file)
time.sleep(60)
"""


def test_a_child_shares_the_clock_and_is_told_to_stop_once(tmp_path):
    clock = Clock(None, 1, 123.5)
    said = tmp_path / "said"
    threading.Thread(target=ask_once_it_said, args=(clock, said)).start()
    assert processes.run_child([sys.executable, "-c", CHILD, str(said)], clock) == 75
    assert said.read_text().split() == ["123.5", str(os.getpid())]


def ask_once_it_said(clock: Clock, said: Path) -> None:
    while not said.exists() or not said.read_text():
        time.sleep(0.05)
    clock.stop_asked = "SIGTERM"


@pytest.mark.parametrize(("names", "cause"), [
    (["wandbb"], "did you mean 'wandb'"), (["tensorboard", "wandb"], "wandb: it is not installed"),
    (["all"], "--log-with all"),
])  # fmt: skip
def test_a_tracker_that_would_be_left_out_in_silence_is_refused(monkeypatch, names, cause):
    from accelerate import tracking
    from accelerate.utils import LoggerType

    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    processes.refuse_unknown_tracker(["tensorboard"])
    with pytest.raises(Stop, match=cause):
        processes.refuse_unknown_tracker(names)
