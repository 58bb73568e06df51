import csv
import io

import pytest

from results.tables import csv_text, harmless


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+2", "-1-2", "-A1", "@SUM(A1)", "\t=1", '=HYPERLINK("x")']
)
def test_no_cell_is_a_formula(text):
    ((cell,),) = csv.reader(io.StringIO(csv_text([[text]]), newline=""))
    assert cell == f"'{text}"


def test_no_cell_ends_its_row():
    text = csv_text([["a\r=1", "b\r\nc"], ["d", "e"]])
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["a\n=1", "b\nc"], ["d", "e"]]


def test_numbers_and_other_text_are_as_they_are():
    rows = [["a", -1.5, 3, None, True], ['x\n"y", z', "1-2", "ü", "", " =1"]]
    read = list(csv.reader(io.StringIO(csv_text(rows), newline="")))
    assert read == [["a", "-1.5", "3", "", "True"], ['x\n"y", z', "1-2", "ü", "", " =1"]]
    assert harmless(-1.5) == -1.5
    assert harmless("-inf") == "-inf"
