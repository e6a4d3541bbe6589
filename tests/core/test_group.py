"""Who was asked for, who came, which address is bound: said in one sentence before anything is trained."""

import socket
import time
from types import SimpleNamespace

import pytest
import torch

from lib.core import group, processes
from lib.core.errors import FAILED, Paused, Stop
from lib.core.session import Clock

RANK_OF_TWO = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
NAMES = (*RANK_OF_TWO, "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "GLOO_SOCKET_IFNAME")


def machine(number: int) -> list[str]:
    """Words for torch's launcher on one of two machines, in both of its spellings."""
    return ["--nnodes", "2", f"--node_rank={number}", "--master-addr", "10.0.0.1", "--master-port", "29500"]


@pytest.fixture
def environment(monkeypatch):
    """environment(NAME=value) is all that a launcher has said."""
    for name in (*NAMES, "PIPELINE_MACHINE", "PIPELINE_MACHINES", "PIPELINE_OUTCOME"):
        monkeypatch.setenv(name, "")  # put back at the end, whatever the code sets
        monkeypatch.delenv(name)

    def said(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return said


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "10.0.0.1"}, "accelerate launch .* made no group"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but this process has no RANK"),
    ],
)
def test_a_launcher_that_made_no_group_is_named_with_the_right_line(environment, values, cause):
    environment(**values)
    with pytest.raises(Stop, match=cause) as stopped:
        group.refuse_alone("python step4_train.py --run r")
    assert '--launch-args "--nnodes 2 --node-rank R --master-addr' in stopped.value.command


@pytest.mark.parametrize(
    "values", [{}, RANK_OF_TWO | {"MASTER_ADDR": "10.0.0.1"}, {"ACCELERATE_MIXED_PRECISION": "no"}]
)
def test_one_process_and_a_real_group_are_let_through(environment, values):
    environment(**values)
    group.refuse_alone("python step4_train.py --run r")


def test_fewer_processes_than_asked_for_stop(environment):
    group.refuse_fewer(1, "same")
    environment(**RANK_OF_TWO)
    group.refuse_fewer(2, "same")
    with pytest.raises(Stop, match="2 processes were asked for and 1 joined: nothing is trained"):
        group.refuse_fewer(1, "same")


def test_two_machines_without_a_group_stop(environment):
    processes.note_machine(machine(1), "line")
    with pytest.raises(Stop, match="2 processes were asked for and 1 joined"):
        group.refuse_fewer(1, "same")


def test_words_of_several_machines_must_be_whole(environment):
    with pytest.raises(Stop, match="2 machines without --node-rank, --master-addr, --master-port"):
        processes.note_machine(["--nnodes=2"], "line")
    processes.note_machine(["--nnodes", "1"], "line")
    processes.note_machine(["--tee", "3"], "line")
    assert group.machines_asked() == 1


def test_only_the_first_machine_writes(environment):
    assert processes.is_first_rank() and not processes.further_machine()
    processes.note_machine(machine(0), "line")
    assert processes.is_first_rank() and processes.further_machine() == ""
    processes.note_machine(machine(1), "line")
    assert not processes.is_first_rank() and processes.further_machine() == "1"


def resolving_to(monkeypatch, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **words: found)


@pytest.mark.parametrize(("addresses", "said"), [
    (["127.0.0.1"], "stands for 127.0.0.1"), (["127.0.1.1"], "stands for 127.0.1.1"),
    (["203.0.113.7"], "stands for no address of this machine"), ([], "stands for no address of this machine"),
])  # fmt: skip
def test_an_address_that_the_others_cannot_reach_is_named(environment, monkeypatch, addresses, said):
    environment(**RANK_OF_TWO)
    resolving_to(monkeypatch, *addresses)
    with pytest.raises(Stop, match=said) as stopped:
        group.refuse_loopback()
    assert "GLOO_SOCKET_IFNAME=" in stopped.value.command
    environment(GLOO_SOCKET_IFNAME="eth0")
    group.refuse_loopback()


def test_an_address_of_this_machine_is_taken(environment, monkeypatch):
    """The first one that can be bound, as gloo does it."""
    environment(**RANK_OF_TWO)
    monkeypatch.setattr(group, "bound_address", lambda name: "10.0.0.2")
    group.refuse_loopback()


@pytest.mark.parametrize(
    "values", [{}, RANK_OF_TWO | {"LOCAL_WORLD_SIZE": "2"}, RANK_OF_TWO | {"MASTER_ADDR": "127.0.0.1"}]
)
def test_on_one_machine_loopback_is_right(environment, monkeypatch, values):
    environment(**values)
    resolving_to(monkeypatch, "127.0.0.1")
    group.refuse_loopback()


def test_the_interface_of_an_address_is_found():
    assert group.interface_to("127.0.0.1") == "lo"
    assert group.interface_to("no such address") == "eth0"


@pytest.fixture
def ended(monkeypatch):
    """The exit codes with which this process would have ended at once."""
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(processes.os, "_exit", leave)
    return codes


@pytest.mark.parametrize("error", [
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]"),
    torch.distributed.DistBackendError("NCCL error"), torch.distributed.DistNetworkError("timed out"),
])  # fmt: skip
def test_a_lost_process_ends_the_others_with_one_sentence(environment, ended, capsys, monkeypatch, tmp_path, error):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    environment(**RANK_OF_TWO, PIPELINE_OUTCOME=str(tmp_path / "outcome"))
    with pytest.raises(SystemExit), processes.ending_together("again"):
        raise error
    assert ended == [FAILED] and (tmp_path / "outcome").read_text() == "1"
    assert capsys.readouterr().err == f"error: {group.GONE}\n   go on with: again\n"


def test_processes_that_never_came_are_counted(environment, ended, capsys):
    environment(**RANK_OF_TWO)
    with pytest.raises(SystemExit), processes.ending_together("again"):
        raise torch.distributed.DistNetworkError("timed out after 150000ms")
    assert f"not all of the 2 processes came within {group.GROUP_SECONDS} s" in capsys.readouterr().err


def test_other_errors_keep_their_traceback(environment, ended):
    environment(**RANK_OF_TWO)
    with pytest.raises(RuntimeError, match="shape"), processes.ending_together("again"):
        raise RuntimeError("shape mismatch")
    assert not ended


@pytest.fixture
def accelerator(monkeypatch, tmp_path):
    """What Accelerate is given; it finds one process."""
    import accelerate

    seen = {}

    def one_process(**words):
        seen.update(words)
        return SimpleNamespace(distributed_type=accelerate.DistributedType.NO, num_processes=1)

    monkeypatch.setattr(accelerate, "Accelerator", one_process)
    return seen


def test_no_group_is_opened_that_is_too_small_or_cannot_be_reached(environment, accelerator, monkeypatch, tmp_path):
    environment(PIPELINE_MACHINES="2")
    with pytest.raises(Stop, match="2 processes were asked for and 1 joined"):
        processes.accelerator("fp32", tmp_path)
    accelerator.clear()
    environment(**RANK_OF_TWO)
    resolving_to(monkeypatch, "127.0.0.1")
    with pytest.raises(Stop, match="cannot reach it"):
        processes.accelerator("fp32", tmp_path)
    assert not accelerator  # before Accelerate is asked


def test_step_4_trains_nothing_where_a_launcher_made_no_group(environment, step, prepared, folder, capsys):
    prepared("train.epochs=1")
    environment(ACCELERATE_MIXED_PRECISION="no", MASTER_ADDR="10.0.0.1")
    assert step(4) == 2 and "made no group" in capsys.readouterr().err
    assert not (folder / "train").exists()


def test_a_group_repairs_no_earlier_step(environment, step, prepared, folder, capsys):
    """The others would wait for rank 0 and give it up."""
    prepared("train.epochs=1", last=2)
    environment(RANK="0", WORLD_SIZE="2")
    assert step(4) == 2 and "step 3 (prepare) is absent" in capsys.readouterr().err
    assert not (folder / "3_prepare.json").exists()


def test_the_group_waits_minutes_and_not_half_an_hour(environment, accelerator, tmp_path):
    processes.accelerator("fp32", tmp_path)
    [handler] = accelerator["kwargs_handlers"]
    assert 120 <= handler.timeout.total_seconds() == group.GROUP_SECONDS <= 180


class Pair:
    """What rank 0 and another rank would give each other, from one side: the other's wishes are written down."""

    num_processes, device = 2, "cpu"

    def __init__(self, *others: tuple[bool, bool]):
        self.others = list(others)

    def reduce(self, flags, how):
        return flags + torch.tensor([float(wish) for wish in self.others.pop(0)])


@pytest.fixture
def clock():
    return Clock(None, 0.0, time.monotonic())


def test_the_others_meet_rank_0_at_each_of_its_pauses(environment, clock):
    pair = Pair((False, False), (False, False), (False, False))

    def work(pause):
        pause()
        pause()
        return "made"

    assert processes.alone(pair, clock, work) == "made" and not pair.others
    environment(RANK="1", WORLD_SIZE="2")
    pair = Pair((False, False), (False, False), (False, True))
    assert processes.alone(pair, clock, work) is None and not pair.others


def test_a_stop_of_any_rank_pauses_all_of_them(environment, clock):
    with pytest.raises(Paused):
        processes.alone(Pair((True, False)), clock, lambda pause: pause())
    environment(RANK="1", WORLD_SIZE="2")
    with pytest.raises(Paused):
        processes.alone(Pair((True, False)), clock, lambda pause: pause())
    assert processes.alone(Pair((True, True)), clock, lambda pause: pause()) is None  # it was finished all the same
