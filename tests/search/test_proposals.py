"""Held against the toy space, whose every row is known, and against `Genome.cost`."""

import numpy as np
import pytest

from search.networks import NetworkProposals
from search.proposals import BAND, SLICE
from space.budget import Budget
from space.cost_table import CostTable
from space.files import make_space

SMALLEST, LARGEST = 1_808_896, 87_048_704  # MACs of the toy space, see test_reachable

# Easy ones, both ends of the space, other costs, two limits at once, next to nothing.
TOY_BUDGETS = [
    "20MFLOPs",
    "1.9MFLOPs",
    "85MFLOPs",
    "70kparams",
    "20MFLOPs,70kparams",
    "120kparams,30MFLOPs",
    f"{SMALLEST / 1000}kMACs",
    f"{LARGEST / 1000}kMACs",
]


def costs(space, rows, name):
    """From the networks themselves, not from the table."""
    return np.array([getattr(space.decode(row).cost(), name) for row in rows])


def assert_fits(proposals, rows, low=0.0, high=1.0):
    space, budget = proposals.space, proposals.budget
    assert (rows == space.canonical(rows)).all()
    assert ((rows >= 0) & (rows < space.cardinalities)).all()
    for name, limit in budget.limits().items():
        assert (costs(space, rows, name) <= limit).all()
    use = costs(space, rows, proposals.target) / proposals.limit
    assert (use >= low).all()
    assert (use <= high).all()


def feasible(proposals, rows, low=0.0, high=1.0):
    """Those of `rows` that fit, by the definition."""
    table, budget = proposals.table, proposals.budget
    inside = np.ones(len(rows), bool)
    for name, limit in budget.limits().items():
        inside &= table.column(rows, name) <= limit
    use = table.column(rows, proposals.target) / proposals.limit
    return rows[inside & (use >= low) & (use <= high)]


def distinct(rows):
    return {tuple(row) for row in rows.tolist()}


@pytest.mark.parametrize("budget", TOY_BUDGETS)
@pytest.mark.parametrize("low", [0.0, BAND])
def test_everything_proposed_is_inside_the_budget(propose, every_toy_row, budget, low):
    proposals, rng = propose("toy", budget), np.random.default_rng(0)
    allowed = distinct(feasible(proposals, every_toy_row, low))
    if not allowed:
        with pytest.raises(ValueError, match="no network of space 'toy'"):
            proposals.sample(rng, 1, low)
        return
    rows = proposals.sample(rng, 40, low)
    mutants = proposals.mutate(rows, rng, low)
    children = proposals.cross(rows, rows[::-1], rng, low)
    anywhere = proposals.space.sample_codes(rng, 40)
    repaired = proposals.repair(anywhere, rng, low)
    late_mutants = proposals.mutate(rows, rng, low, late=True)
    late_children = proposals.cross(rows, rows[::-1], rng, low, late=True)
    for found in (rows, mutants, children, repaired, late_mutants, late_children):
        assert found.shape == (40, 12)
        assert_fits(proposals, found, low)
        assert distinct(found) <= allowed
    # Not just one that fits, over and over: most of what there is, where there is little.
    some = distinct(proposals.sample(rng, 500, low))
    assert len(some) >= min(len(allowed), 60) * 0.75


@pytest.mark.parametrize(
    "budget", ["2GFLOPs", "60MFLOPs", "5.4GFLOPs", "200kparams,300MFLOPs", "100MFLOPs,90kparams"]
)
def test_spaces_with_conditions(propose, budget):
    proposals, rng = propose("wide", budget), np.random.default_rng(1)
    rows = proposals.sample(rng, 30, BAND)
    assert_fits(proposals, rows, BAND)
    assert len(distinct(rows)) > 20
    assert_fits(proposals, proposals.mutate(rows, rng, BAND), BAND)
    assert_fits(proposals, proposals.cross(rows, rows[::-1], rng, BAND), BAND)
    late = proposals.mutate(rows, rng, BAND, late=True)
    assert_fits(proposals, late, BAND)
    assert np.array_equal(late, proposals.space.canonical(late))
    low = np.linspace(0.6, 0.95, 30)
    assert_fits(proposals, proposals.mutate(rows, rng, low, low + SLICE), low, low + SLICE)


@pytest.mark.parametrize("limits", ["5.4GFLOPs,930kparams", "25MFLOPs", "26MFLOPs,78kparams"])
def test_what_chance_does_not_find(propose, wide_space, limits):
    proposals = propose("wide", limits)
    survey = wide_space.sample_codes(np.random.default_rng(5), 100_000)
    assert not proposals.fits(survey, BAND).any()
    rows = proposals.sample(np.random.default_rng(0), 100, BAND)
    assert_fits(proposals, rows, BAND)
    assert len(distinct(rows)) > 20


def test_samples_are_uniform_over_what_fits(toy, every_toy_row):
    """Each choice of each variable as often as among all rows that fit, to five deviations."""
    allowed = feasible(toy, every_toy_row)
    rows = toy.sample(np.random.default_rng(0), 20_000)
    for v, size in enumerate(toy.space.cardinalities):
        for code in range(size):
            share = (allowed[:, v] == code).mean()
            deviation = np.sqrt(share * (1 - share) / len(rows))
            assert abs((rows[:, v] == code).mean() - share) < 5 * deviation


def test_the_ends_of_the_space_are_exact(propose):
    at_the_end = propose("toy", f"{SMALLEST / 1000}kMACs")
    rows = at_the_end.sample(np.random.default_rng(0), 5, BAND)
    assert (costs(at_the_end.space, rows, "macs") == SMALLEST).all()
    below = propose("toy", f"{(SMALLEST - 1) / 1000}kMACs")
    for attempt in (
        below.check,
        lambda: below.sample(np.random.default_rng(0), 1),
        lambda: below.mutate(rows, np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match=r"1\.81M to 87M MACs"):
            attempt()


def test_no_network_at_the_budget_is_an_error_that_says_what_there_is(propose):
    too_much = propose("toy", "1GFLOPs")
    too_much.sample(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match=r"95% to 100% of the budget '1GFLOPs'.*uses 8\.7%"):
        too_much.check()
    with pytest.raises(ValueError, match=r"fits the budget.*66\.9k to 128k parameters"):
        propose("toy", "20MFLOPs,20kparams").check()


@pytest.mark.parametrize("late", [False, True])
def test_a_mutant_differs_in_one_variable(toy, late):
    rng = np.random.default_rng(0)
    rows = toy.sample(rng, 300)
    mutants = toy.mutate(rows, rng, late=late)
    assert ((mutants != rows).sum(axis=1) == 1).all()
    assert ((mutants != rows).any(axis=0)).all()  # every variable has its turn


def test_a_child_has_its_parents_genes(propose):
    everything = propose("toy", f"{LARGEST / 1000}kMACs")
    rng = np.random.default_rng(0)
    mothers, fathers = everything.sample(rng, 200), everything.sample(rng, 200)
    children = everything.cross(mothers, fathers, rng)
    assert ((children == mothers) | (children == fathers)).all()
    differ = mothers != fathers
    assert 0.45 < (children == mothers)[differ].mean() < 0.55


def test_late_mutants_and_children_begin_as_their_mothers(propose):
    everything = propose("toy", f"{LARGEST / 1000}kMACs")
    rng = np.random.default_rng(0)
    mothers, fathers = everything.sample(rng, 400), everything.sample(rng, 400)

    def kept(rows):
        """How many variables a row has in common with its mother before the first that differs,
        on average; of 12."""
        return np.cumprod(rows == mothers, axis=1).sum(axis=1).mean()

    assert kept(everything.mutate(mothers, rng)) == pytest.approx(5.5, abs=0.6)
    # The later of two of 12: the sum of (k - 1) (2k - 1) / 144.
    assert kept(everything.mutate(mothers, rng, late=True)) == pytest.approx(7.486, abs=0.6)
    children = everything.cross(mothers, fathers, rng, late=True)
    from_father = np.cumsum(children != mothers, axis=1) > 0
    assert np.array_equal(children, np.where(from_father, fathers, mothers))
    assert kept(children) > kept(everything.cross(mothers, fathers, rng)) + 2


def test_repair_leaves_alone_what_fits(toy):
    rng = np.random.default_rng(0)
    rows = toy.space.sample_codes(rng, 400)
    fits = toy.fits(rows)
    repaired = toy.repair(rows, rng)
    np.testing.assert_array_equal(repaired[fits], rows[fits])
    assert_fits(toy, repaired)


def test_repaired_rows_resemble_what_they_were(wide):
    rng = np.random.default_rng(0)
    rows = wide.space.sample_codes(rng, 60)
    changed = (wide.repair(rows, rng, BAND) != rows).mean()
    unrelated = (wide.sample(rng, 60, BAND) != rows).mean()
    assert changed < unrelated / 2


def test_nearest_is_the_smallest_distance_and_takes_each_row_once(toy):
    rows = toy.sample(np.random.default_rng(0), 50)
    use = toy.use(rows)
    low = np.array([0.9, 0.5, 0.9, 0.2])
    found = toy.nearest(rows, low, low)  # a range of no width: the nearest in ratio
    left = list(range(50))
    for level, row in zip(low, found, strict=True):
        best = min(left, key=lambda i: abs(np.log(use[i] / level)))
        assert use[best] == pytest.approx(toy.use(row[None])[0])
        left.remove(best)


@pytest.mark.parametrize("budget", ["20MFLOPs", "3MFLOPs", "80MFLOPs", "90kparams"])
def test_slices_hold_every_network_that_fits(propose, every_toy_row, budget):
    proposals = propose("toy", budget)
    use = proposals.use(feasible(proposals, every_toy_row))
    slices = proposals.slices()
    assert all(any(low <= u <= high for low, high in slices) for u in use)
    assert slices[0][1] >= use.min()
    for low, high in slices:
        assert high - low == pytest.approx(SLICE)
        assert proposals.has(low, high) == ((use >= low) & (use <= high)).any()


def test_reachable(toy, every_toy_row):
    reachable = toy.reachable()
    macs = toy.table.column(every_toy_row, "macs")
    params = toy.table.column(every_toy_row, "params")
    assert reachable.smallest == {"macs": macs.min(), "params": params.min()}
    assert reachable.largest == {"macs": macs.max(), "params": params.max()}
    assert (macs.min(), macs.max()) == (SMALLEST, LARGEST)
    for name, values in (("macs", macs), ("params", params)):
        assert 0.48 < (values <= reachable.median[name]).mean() < 0.52
    assert reachable.share == pytest.approx((macs <= 20e6).mean(), abs=0.02)
    at_budget = ((macs <= 20e6) & (macs >= 19e6)).mean()
    assert reachable.share_at_budget == pytest.approx(at_budget, abs=0.007)


def test_rows_do_not_depend_on_earlier_calls(propose):
    fresh, used = (propose("wide", "60MFLOPs") for _ in range(2))
    used.sample(np.random.default_rng(7), 20, 0.5, 0.55)
    used.check()
    for proposals in (fresh, used):
        rows = proposals.sample(np.random.default_rng(0), 20, BAND)
        np.testing.assert_array_equal(rows, fresh.sample(np.random.default_rng(0), 20, BAND))


def test_a_space_of_one_network():
    space = make_space(
        {
            "name": "one",
            "resolution": [64],
            "stem": {"convolution": {"channels": [8]}},
            "stages": [{"channels": [8], "depth": [1], "operators": {"inverted_bottleneck": {}}}],
            "head": {"pooled": {"features": [64]}},
        }
    )
    only = space.decode(space.sample_codes(np.random.default_rng(0), 1)[0]).cost()
    proposals = NetworkProposals(space, CostTable(space), Budget(macs=only.macs, text="all"))
    rng = np.random.default_rng(0)
    rows = proposals.sample(rng, 2, BAND)
    assert rows.shape == (2, 0)
    assert proposals.mutate(rows, rng).shape == (2, 0)
    assert proposals.cross(rows, rows, rng).shape == (2, 0)
    assert proposals.mutate(rows, rng, late=True).shape == (2, 0)
    assert proposals.cross(rows, rows, rng, late=True).shape == (2, 0)
    with pytest.raises(ValueError, match="no network"):
        NetworkProposals(space, CostTable(space), Budget(macs=only.macs - 1, text="less")).check()
