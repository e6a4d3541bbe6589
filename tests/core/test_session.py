"""The clock, the signals, and children whose parent died."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib.core import session
from lib.core.errors import Stop
from lib.core.session import Clock, open_clock

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_session(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PIPELINE_", "KAGGLE_", "SESSION_HOURS"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "text, wanted", [("90", 90), ("90s", 90), ("45m", 2700), ("11h30m", 41400), ("1.5h", 5400), ("1h1m1s", 3661)]
)
def test_time_limits_are_read(text, wanted):
    assert session.seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "h", "11x", "30m11h", "-5s", "1h 2m"])
def test_a_wrong_time_limit_is_refused(text):
    with pytest.raises(Stop, match="cannot be read: write 11h30m"):
        session.seconds(text)


def test_the_flag_beats_the_variable_beats_kaggle_beats_no_limit(monkeypatch):
    assert open_clock("", 1).limit_seconds is None
    monkeypatch.setattr(session, "container_age_seconds", lambda: 3600.0)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    kaggle = open_clock("", 60)
    assert kaggle.remaining_seconds == pytest.approx(11 * 3600 - 60, abs=5)
    monkeypatch.setenv("SESSION_HOURS", "9")
    assert open_clock("", 1).limit_seconds == 9 * 3600
    assert open_clock("10m", 1).limit_seconds == 600


def test_a_key_for_the_api_of_kaggle_does_not_make_a_machine_kaggles(monkeypatch):
    """Its limit of 12 hours would count from the start of the machine: every step would pause at once."""
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    assert open_clock("", 60.0).limit_seconds is None


def test_all_steps_share_one_clock(monkeypatch):
    monkeypatch.setenv("PIPELINE_SESSION_START", str(time.monotonic() - 500))
    assert open_clock("600s", 60).remaining_seconds == pytest.approx(40, abs=5)


def test_a_limit_shorter_than_the_reserve_is_refused():
    with pytest.raises(Stop, match="limit of 60 s is shorter than the reserve of 60 s"):
        Clock(60, 60, time.monotonic())


def test_the_reserve_grows_to_twice_the_measured_cost_of_finishing():
    clock = Clock(1000, 60, time.monotonic())
    assert clock.has_time(900) and not clock.has_time(950)
    clock.note_finishing(200)
    clock.note_finishing(10)
    assert clock.has_time(590) and not clock.has_time(610)


WAITER = """
import sys, time
sys.path.insert(0, {root!r})
from lib.core.session import Clock, catch_signals, guard_against_dead_parent
clock = Clock(None, 1, time.monotonic())
catch_signals(clock); guard_against_dead_parent(clock)
print("ready", flush=True)
while {polite} and not clock.stop_asked or not {polite}:
    time.sleep(0.05)
print("saved", flush=True)
sys.exit(75)
"""


def waiter(polite=True, **environment):
    command = [sys.executable, "-c", WAITER.format(root=str(ROOT), polite=polite)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_a_second_one_ends_at_once(number):
    child = waiter()
    child.send_signal(number)
    assert child.communicate(timeout=20)[0] == "saved\n" and child.returncode == 75
    child = waiter(polite=False)
    child.send_signal(number)
    assert "stopping at the next safe point" in child.stderr.readline() + child.stderr.readline()
    child.send_signal(number)
    assert child.wait(timeout=20) == 128 + number


PARENT = """
import os, subprocess, sys
os.environ["PIPELINE_PARENT"] = str(os.getpid())
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""


def test_a_child_whose_parent_died_ends_itself(tmp_path):
    """The parent is killed; the child, which would wait for ever, asks itself to stop and then ends within 5 s (0.5 s +
    3 s).
    """
    started = subprocess.Popen(
        [sys.executable, "-c", PARENT, WAITER.format(root=str(ROOT), polite=False)], stdout=subprocess.PIPE, text=True
    )
    child = int(started.stdout.readline())
    assert started.stdout.readline() == "ready\n"
    started.kill()
    started.wait()
    assert gone(child, 20)


def gone(pid: int, patience_seconds: float) -> bool:
    """Has a process ended? A zombie (nobody collects it here) has."""
    until = time.monotonic() + patience_seconds
    while time.monotonic() < until:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_without_a_named_parent_a_step_outlives_it(monkeypatch):
    assert session.parent_died() is None
    monkeypatch.setenv("PIPELINE_PARENT", "")
    assert session.parent_died() is None
    monkeypatch.setenv("PIPELINE_PARENT", str(os.getppid()))
    assert session.parent_died()() is False
    monkeypatch.setenv("PIPELINE_PARENT", "1" if os.getppid() != 1 else "2")
    assert session.parent_died()() is True


def test_a_rank_sees_by_the_lock_that_its_step_died(tmp_path, monkeypatch):
    import fcntl

    lock = tmp_path / ".lock"
    held = session.take_lock(lock, fcntl.LOCK_EX)
    monkeypatch.setenv("RANK", "1")
    assert session.parent_died() is None  # accelerate launch on several machines: no step stands above
    monkeypatch.setenv("PIPELINE_LOCK", str(lock))
    died = session.parent_died()
    assert died() is False
    os.close(held)
    assert died() is True
    assert session.take_lock(lock, fcntl.LOCK_EX) is None  # until the rank has ended, no other step takes the run


def test_a_start_that_is_no_number_is_a_sentence(monkeypatch):
    monkeypatch.setenv("PIPELINE_SESSION_START", "x")
    with pytest.raises(Stop, match="PIPELINE_SESSION_START='x' is not a past time"):
        open_clock("1h", 60)


def test_setting_the_wall_clock_back_changes_no_limit(monkeypatch):
    clock = open_clock("1h", 60)
    before = clock.remaining_seconds
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert abs(clock.remaining_seconds - before) < 10
