"""A thread does one thing after another; what goes wrong in it is heard, and nothing is left when it is closed."""

import threading

import pytest

from lib.core.behind import Behind


def test_work_goes_on_behind_and_in_order():
    behind, go, done = Behind(), threading.Event(), []
    behind.start(lambda: done.append(go.wait(10)))
    behind.look()
    assert done == []
    threading.Timer(0.05, go.set).start()
    behind.start(lambda: done.append(2))
    assert done[0] is True
    behind.close()
    assert done == [True, 2]


@pytest.mark.parametrize("heard", ["wait", "close", "start"])
def test_what_goes_wrong_is_raised_once_by_whoever_asks_next(heard):
    behind = Behind()

    def broken():
        raise OSError("full")

    behind.start(broken)
    with pytest.raises(OSError, match="full"):
        behind.start(broken) if heard == "start" else getattr(behind, heard)()
    behind.close()


def test_looking_does_not_wait_and_hears_what_has_gone_wrong():
    behind, go = Behind(), threading.Event()

    def broken():
        go.wait(10)
        raise OSError("full")

    behind.start(broken)
    behind.look()
    go.set()
    while not behind.running.done():
        pass
    with pytest.raises(OSError, match="full"):
        behind.look()
    behind.close()
