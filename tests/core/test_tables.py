import csv

import pandas
import pytest

from lib.core.errors import Stop
from lib.core.tables import COUNT, NUMBER, TEXT, YES_NO, read_table, write_table

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "'", "''"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_would_run_is_escaped_and_comes_back_as_it_was(tmp_path, text):
    write_table(tmp_path / "t.csv", pandas.DataFrame({"name": [text]}))
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file))[1][0][0] == "'"
    assert read_table(tmp_path / "t.csv", {"name": TEXT})["name"].tolist() == [text]


@pytest.mark.parametrize("number", [-1.5, "-1.5", "+3", "-1e-05", "-inf"])
def test_numbers_stay_numbers(tmp_path, number):
    write_table(tmp_path / "t.csv", pandas.DataFrame({"value": [number]}))
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == str(number)


def test_columns_come_back_with_their_dtypes_and_numbers_bit_for_bit(tmp_path):
    columns = {"name": TEXT, "value": NUMBER, "count": COUNT, "demo": YES_NO}
    rows = [("a,b", 0.1 + 0.2, 1, True), ("", float("nan"), None, False), ("中", 5e-324, 2**53 + 1, None)]
    made = pandas.DataFrame(rows, columns=list(columns)).astype({"count": object}).astype(columns)
    write_table(tmp_path / "t.csv", made)
    found = read_table(tmp_path / "t.csv", columns)
    pandas.testing.assert_frame_equal(found, made)
    assert pandas.read_csv(tmp_path / "t.csv")["value"].tolist()[0] == 0.1 + 0.2


@pytest.mark.parametrize("text, cause", [
    ("", "is not a table"), ("a,b\n1,2,3\n4,5,6,7\n", "is not a table"), ("b\n1\n", "has no column a"),
    ("a\nx\n", "not a number"),
])  # fmt: skip
def test_a_damaged_table_ends_with_a_sentence(tmp_path, text, cause):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(Stop, match=cause):
        read_table(tmp_path / "t.csv", {"a": NUMBER})
