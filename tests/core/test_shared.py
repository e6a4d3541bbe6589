"""What two runs share is made by one and found by the other: with two real processes."""

import multiprocessing
import os
import signal
import time

from lib.core.hashes import Memo
from lib.core.run import existing
from lib.core.shared import alone_at

FORK = multiprocessing.get_context("fork")


def make_once(path, log):
    with alone_at(path):
        if not path.exists():
            with open(log, "a") as file:
                file.write("made\n")
            time.sleep(0.2)
            path.write_text("whole")


def remember(root, name):
    for number in range(20):
        (root / f"{name}{number}").write_text(name)
        memo = Memo(root / "hashes.json")
        memo.sha256(root / f"{name}{number}")
        memo.save()


def together(*calls):
    children = [FORK.Process(target=work, args=words) for work, *words in calls]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * len(calls)


def test_two_processes_make_a_shared_thing_once(tmp_path):
    together(*[(make_once, tmp_path / "thing", tmp_path / "log")] * 3)
    assert (tmp_path / "log").read_text() == "made\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "thing"]


def test_a_memo_keeps_what_both_processes_found(tmp_path):
    together((remember, tmp_path, "a"), (remember, tmp_path, "b"))
    assert len(existing(tmp_path / "hashes.json")) == 40


def hold(path):
    with alone_at(path):
        path.with_name(f".{path.name}.{os.getpid()}.tmp").write_text("half")
        time.sleep(60)


def test_a_killed_holder_leaves_neither_lock_nor_temporary(tmp_path):
    path = tmp_path / "thing"
    child = FORK.Process(target=hold, args=(path,))
    child.start()
    while not list(tmp_path.glob(".thing.*.tmp")):
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    (tmp_path / ".thing.of-a-person.tmp").write_text("kept")
    with alone_at(path):
        path.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".thing.of-a-person.tmp", "thing"]
