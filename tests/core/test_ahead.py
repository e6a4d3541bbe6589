"""Threads make ahead of time what is taken next, and change nothing but when."""

import threading

import pytest

from lib.core.ahead import Ahead


def after(place):
    return range(place + 1, 20)


@pytest.fixture
def square():
    """make(place), which notes the places it was called with and the threads that called it."""

    def make(place):
        make.places.append(place)
        make.threads.add(threading.current_thread())
        if place == 7:
            raise ValueError("seven")
        return place * place

    make.places, make.threads = [], set()
    return make


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_what_is_taken_does_not_depend_on_the_threads(square, workers):
    ahead = Ahead(square, after, workers)
    assert [ahead.take(place) for place in range(7)] == [place * place for place in range(7)]
    ahead.close()
    assert (threading.main_thread() in square.threads) == (workers == 0)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_error_is_raised_where_its_place_is_taken_and_not_before(square, workers):
    ahead = Ahead(square, after, workers)
    assert [ahead.take(place) for place in (5, 6)] == [25, 36]
    with pytest.raises(ValueError, match="seven"):
        ahead.take(7)
    assert ahead.take(8) == 64
    ahead.close()


def test_only_a_few_are_made_ahead(square):
    ahead = Ahead(square, after, 2)
    ahead.take(0)
    ahead.close()
    assert max(square.places) <= 3


def test_a_place_that_was_not_expected_is_made_and_followed_by_its_own_successors(square):
    ahead = Ahead(square, after, 1)
    assert [ahead.take(place) for place in (0, 1, 10, 11, 3, 4)] == [0, 1, 100, 121, 9, 16]
    ahead.close()


def test_after_the_last_place_nothing_is_begun_and_a_closed_one_still_answers(square):
    ahead = Ahead(square, after, 4)
    assert [ahead.take(place) for place in (18, 19)] == [324, 361]
    ahead.close()
    assert ahead.take(5) == 25 and max(square.places) == 19


def test_the_time_that_is_waited_is_counted(square):
    released = threading.Event()
    threading.Timer(0.2, released.set).start()
    ahead = Ahead(lambda place: released.wait(5) and place, after, 1)
    assert ahead.take(1) == 1 and ahead.waited_seconds >= 0.1
    ahead.close()
