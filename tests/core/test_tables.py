import csv

import pytest

from lib.core.tables import read_table, write_table

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "'", "''"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_would_run_is_escaped_and_comes_back_as_it_was(tmp_path, text):
    write_table(tmp_path / "t.csv", ["name"], [[text]])
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file))[1][0][0] == "'"
    assert read_table(tmp_path / "t.csv") == [{"name": text}]


@pytest.mark.parametrize("number", [-1.5, "-1.5", "+3", "-1e-05", "-inf"])
def test_numbers_stay_numbers(tmp_path, number):
    write_table(tmp_path / "t.csv", ["value"], [[number]])
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == str(number)
