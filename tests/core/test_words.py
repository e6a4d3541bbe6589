"""Counts as people write them."""

import pytest

from lib.core.words import change, counted


@pytest.mark.parametrize("count, said", [(0, "0 groups"), (1, "1 group"), (2, "2 groups"), (1200, "1,200 groups")])
def test_one_is_singular(count, said):
    assert counted(count, "group") == said


def test_an_irregular_plural_is_given():
    assert counted(1, "process", "processes") == "1 process" and counted(2, "process", "processes") == "2 processes"


def test_a_change_has_the_sign_of_the_difference_and_is_nothing_to_zero():
    assert change(-0.5, 2.0) == "-25.0 %" and change(0.5, -2.0) == "+25.0 %" and change(1.0, 0.0) == ""
