"""Tables as problems, against what the files say when they are read by hand."""

import csv
import gzip
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from search.compare import Plan, make_named, play
from search.problem import Trial
from search.proposals import Proposals
from search.tables import Reading, read_table

HEAD = ["a", "b", "acc", "acc2", "size"]


def lines_of(count_a=3, count_b=4):
    """A complete table: accuracy rises with both genes, the second observation is one less."""
    return [
        [a, f"b{b}", 10 * a + b, 10 * a + b - 1, 100 + 7 * a + 5 * b]
        for a, b in product(range(count_a), range(count_b))
    ]


def write(path, lines, head=HEAD):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "some.csv", lines_of())


def reading(path, **changed):
    given = {"genes": ("a", "b"), "objective": "acc", "observed": ("acc", "acc2"), **changed}
    return Reading(path=path, **given)


def test_rows_observe_their_columns_in_turn_and_are_judged_by_the_objective(tmp_path):
    table = read_table(reading(write(tmp_path / "some.csv.gz", lines_of())))
    assert [variable.name for variable in table.problem.decisions.variables] == ["a", "b"]
    for a, b in product(range(3), range(4)):
        assert [table.observe((a, b), n)[0] for n in range(3)] == [
            10 * a + b,
            10 * a + b - 1,
            10 * a + b,
        ]
        assert table.judge((a, b)) == (10 * a + b,)
    assert (table.truth.optimum, table.truth.best_count) == (23, 1)
    assert table.problem.members is None  # it is complete
    with pytest.raises(ValueError, match="no row"):
        table.observe((5, 5))


def test_what_is_to_be_small_is_turned_round(path):
    table = read_table(reading(path, objective="acc:min", second="size:max"))
    assert table.sign == -1
    assert table.judge((1, 2)) == (-12, 117)
    assert table.observe((1, 2)) == (-12, 117)  # not known beforehand, so it is observed
    assert table.problem.observed == 2
    assert table.truth.optimum == 0


def test_a_string_of_digits_is_a_gene_a_digit_with_leading_zeros(tmp_path):
    lines = [[f"{i}{j}{k}", i + j + k] for i, j, k in product(range(3), repeat=3)]
    path = write(tmp_path / "digits.csv", lines, ["arch", "acc"])
    for genes in (("arch",), ("arch:digits",)):
        table = read_table(Reading(path, genes, "acc"))
        assert table.problem.decisions.cardinalities.tolist() == [3, 3, 3]
        assert table.judge((0, 0, 2)) == (2,)


def test_choices_stand_in_the_order_of_their_numbers(tmp_path):
    lines = [[width, width] for width in (128, 16, 64)]
    table = read_table(Reading(write(tmp_path / "t.csv", lines, ["w", "acc"]), ("w",), "acc"))
    assert table.problem.decisions.variables[0].choices == (16, 64, 128)
    assert [table.judge((code,))[0] for code in range(3)] == [16, 64, 128]


@pytest.mark.parametrize(
    ("limits", "keeps"),
    [
        (["size<=120"], lambda a, size: size <= 120),
        (["size>=120"], lambda a, size: size >= 120),
        (["size <= median"], lambda a, size: size <= 114.5),
        # Sorted, the sizes begin 100, 105, 107, 110: a quarter of the way is 107 + 0.75 * 3.
        (["size>=q25", "acc<=12"], lambda a, size: size >= 109.25 and a <= 12),
        (["acc<=0"], lambda a, size: a <= 0),
    ],
)
def test_limits_are_hard_and_nothing_else_is_refused(path, limits, keeps):
    table = read_table(reading(path, limits=tuple(limits)))
    proposals = Proposals(table.problem)
    rows = np.array(list(product(range(3), range(4))))
    truth = [keeps(10 * a + b, 100 + 7 * a + 5 * b) for a, b in rows]
    assert proposals.fits(rows).tolist() == truth
    assert table.facts["feasible"] == sum(truth)
    drawn = proposals.sample(np.random.default_rng(0), 50)
    assert proposals.fits(drawn).all()
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in rows[truth]}


@pytest.mark.parametrize(("second", "of"), [("size:min", -1), ("size:max", 1)])
def test_a_known_second_objective_is_a_cost_with_the_same_order(path, second, of):
    table = read_table(reading(path, second=second, known=True))
    assert (table.problem.observed, table.problem.objectives) == (1, 2)
    assert len(table.observe((0, 0))) == 1
    rows = np.array(list(product(range(3), range(4))))
    gains = table.problem.gains([Trial(tuple(row), table.observe(tuple(row))) for row in rows])
    size = np.array([of * (100 + 7 * a + 5 * b) for a, b in rows])
    assert (np.argsort(gains[:, 1], kind="stable") == np.argsort(size, kind="stable")).all()


def test_only_rows_of_an_incomplete_table_are_proposed(tmp_path):
    lines = [line for line in lines_of() if (line[0] + int(line[1][1])) % 2]
    table = read_table(reading(write(tmp_path / "half.csv", lines)))
    there = {(line[0], int(line[1][1])) for line in lines}
    game_rows = {tuple(map(int, row)) for row in table.rows}
    assert game_rows == there
    proposals = Proposals(table.problem)
    controller = make_named("random", proposals, 0)
    rows = controller.ask(20)
    assert set(rows) == there
    assert len(rows) == len(there)


@pytest.mark.parametrize("how", [{"merge": True}, {"same_as": "id"}])
def test_rows_of_one_network_are_counted_once(tmp_path, how):
    """The order of the two genes makes no difference: 9 rows, 6 networks."""
    lines = [
        [a, b, a * a + b * b, f"n{min(a, b)}{max(a, b)}"] for a, b in product(range(3), repeat=2)
    ]
    path = write(tmp_path / "same.csv", lines, ["a", "b", "acc", "id"])
    table = read_table(Reading(path, ("a", "b"), "acc", **how))
    assert table.facts["networks"] == table.facts["feasible"] == 6
    assert table.problem.key((0, 2)) == table.problem.key((2, 0)) != table.problem.key((1, 1))
    proposals = Proposals(table.problem)
    game = play(table, proposals, lambda p, s: make_named("random", p, s), 0, Plan(9))
    assert game["evaluated"] == 6


def test_genes_may_stand_in_a_file_of_their_own(tmp_path):
    path = write(tmp_path / "n.csv", [[0.5], [0.7], [0.6]], ["acc"])
    codes = [[0, 0, 2], [0, 1, 1], [1, 0, 1], [1, 1, -1]]
    encodings = write(tmp_path / "e.csv", codes, ["a", "b", "n"])
    given = {"genes": ("a", "b"), "objective": "acc", "encodings": encodings, "line": "n"}
    table = read_table(Reading(path, **given))
    assert [table.judge(tuple(row))[0] for row in table.rows] == [0.6, 0.7, 0.7]
    assert table.facts["feasible"] == 3
    assert "1 encodings" in table.notes[0]
    assert read_table(Reading(path, **given, same_as="n")).facts["feasible"] == 2


def test_rows_without_numbers_are_left_out_and_said(tmp_path):
    lines = lines_of()
    lines[3][2], lines[5][2] = "nan", ""
    table = read_table(reading(write(tmp_path / "gaps.csv", lines)))
    assert table.facts["rows"] == 10
    assert table.facts["left_out"] == 2
    assert table.notes == ("2 of 12 rows are left out: no number in acc",)
    assert table.problem.members is not None


def test_equal_repeats_are_left_out_and_others_refused(tmp_path):
    lines = lines_of()
    table = read_table(reading(write(tmp_path / "twice.csv", [*lines, lines[4]])))
    assert table.facts["rows"] == 12
    assert "1 rows are repeats" in table.notes[0]
    other = [*lines, [*lines[4][:2], 99, *lines[4][3:]]]
    with pytest.raises(
        ValueError, match="lines 6 and 14 have the same genes, but acc is 10 and 99"
    ):
        read_table(reading(write(tmp_path / "other.csv", other)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"genes": ("a", "c")}, "no column c; it has a, b, acc, acc2, size"),
        ({"objective": "top1:max"}, "no column top1; it has"),
        ({"objective": "acc:up"}, "':max' or ':min'"),
        ({"objective": "b", "genes": ("a",)}, "'b' is not numeric: line 2 has 'b0'"),
        ({"objective": "a"}, "'a' cannot be a gene and an objective"),
        ({"genes": ()}, "genes are missing"),
        ({"genes": ("a", "a")}, "a gene stands twice"),
        ({"limits": ("size",)}, "must read 'column<=value'"),
        ({"limits": ("size<=small",)}, "'small' must be a number, 'median', or a quantile"),
        ({"limits": ("size<=q101",)}, "'q101' must be a number"),
        (
            {"limits": ("size<=1",)},
            "no row of the table is within size<=1: size is from 100 to 129",
        ),
        ({"known": True}, "there is none"),
        ({"merge": True, "same_as": "a"}, "cannot both"),
        ({"genes": ("a",)}, "lines 2 and 3 have the same genes"),
        ({"genes": ("b:digits", "a")}, "'b' must hold digits"),
        ({"best": 0.0}, "best is 0.0"),
        ({"encodings": Path("none.csv"), "line": "n"}, "there is no file 'none.csv'"),
        ({"encodings": Path("none.csv")}, "encodings need line"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(path, changed, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_table(reading(path, **changed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        (b"", "cannot be read as a table"),
        (b"a,b,acc,acc2,size\n", "has no rows"),
        (b"\x1f\x8b broken", "cannot be read as a table"),
        (b"a,b,acc,acc2,size\n1,2,\n", "no row of"),
        (b"a,b,acc,acc2,size\n,2,3,4,5\n", "gene 'a' has no value in line 2"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, said):
    path = tmp_path / ("some.csv.gz" if content and content[:1] == b"\x1f" else "some.csv")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_table(reading(path))
