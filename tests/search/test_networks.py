"""Networks under budgets of costs that are not counts: what is steered, wanted and recorded."""

from dataclasses import dataclass

import numpy as np
import pytest

from evaluator.interfaces import Score
from search.interfaces import Outcome
from search.networks import NetworkProposals, Networks
from search.proposals import BAND
from search.reward import absolute_reward
from space.budget import Budget
from space.cost_table import CostTable


@dataclass(frozen=True)
class Linear:
    """A made-up latency that is a weighted sum of counts."""

    table: CostTable
    name: str = "latency@cpu"
    macs: float = 0.0
    params: float = 0.0

    def __call__(self, codes):
        columns = (self.table.column(codes, name) for name in ("macs", "params"))
        return sum(
            weight * column
            for weight, column in zip((self.macs, self.params), columns, strict=True)
        )


@pytest.fixture(scope="module")
def table(toy_space):
    return CostTable(toy_space)


def proposed(table, budget, *columns, **more):
    return NetworkProposals(table.space, table, Budget.parse(budget), columns, **more)


def by_definition(rows, table, column, limits, target):
    """Which rows fit, and their use of the target."""
    values = {"macs": table.column(rows, "macs"), "params": table.column(rows, "params")}
    values[column.name] = column(rows)
    inside = np.all([values[name] <= limit for name, limit in limits.items()], axis=0)
    return inside, values[target] / limits[target]


# Of 20M MACs, whose network is dearer by parameters: rows of 1 ms for 1M MACs and 10k parameters.
@pytest.mark.parametrize(
    ("budget", "target"),
    [
        ("20MFLOPs,1s@cpu", "macs"),  # 1 s is never reached
        ("60MFLOPs,30ms@cpu", "latency@cpu"),  # 30 ms are reached long before 60M MACs
        ("30ms@cpu", "latency@cpu"),
        ("30ms@cpu,100kparams", "latency@cpu"),
        ("80ms@cpu,70kparams", "params"),
        ("20MFLOPs,70kparams,1s@cpu", "params"),
    ],
)
def test_the_first_limit_that_can_be_met_is_steered(table, every_toy_row, budget, target):
    column = Linear(table, macs=1e-6, params=1e-4)
    proposals = proposed(table, budget, column)
    assert proposals.target == target
    assert proposals.limit == Budget.parse(budget).limits()[target]
    assert proposals.objectives == ("score", target)
    limits = Budget.parse(budget).limits()
    for earlier in Budget.parse(budget).targets:
        inside, use = by_definition(every_toy_row, table, column, limits, earlier)
        assert (inside & (use >= BAND)).any() == (earlier == target)
        if earlier == target:
            break


@pytest.mark.parametrize(
    "budget", ["60MFLOPs,30ms@cpu", "30ms@cpu", "11ms@cpu", "25ms@cpu,90kparams"]
)
def test_everything_proposed_is_inside_all_limits(table, every_toy_row, budget):
    column = Linear(table, macs=1e-6, params=1e-4)
    proposals, rng = proposed(table, budget, column), np.random.default_rng(0)
    limits = Budget.parse(budget).limits()
    inside, use = by_definition(every_toy_row, table, column, limits, proposals.target)
    allowed = {tuple(row) for row in every_toy_row[inside & (use >= BAND)].tolist()}
    assert allowed
    rows = proposals.sample(rng, 30, BAND)
    for found in (
        rows,
        proposals.mutate(rows, rng, BAND),
        proposals.cross(rows, rows[::-1], rng, BAND),
    ):
        assert {tuple(row) for row in found.tolist()} <= allowed
    slices = proposals.slices()
    assert all(any(low <= u <= high for low, high in slices) for u in use[inside])


def test_a_target_that_is_named_is_steered(table):
    column = Linear(table, macs=1e-6)
    named = proposed(table, "60MFLOPs,30ms@cpu", column, target="macs")
    assert named.target == "macs"
    rows = named.sample(np.random.default_rng(0), 50)
    assert (column(rows) <= 30).all()


def test_reachable_knows_every_column(table, every_toy_row):
    column = Linear(table, macs=1e-6, params=1e-4)
    reachable = proposed(table, "30ms@cpu", column).reachable()
    values = column(every_toy_row)
    assert set(reachable.smallest) == {"macs", "params", "latency@cpu"}
    assert reachable.smallest["latency@cpu"] == pytest.approx(values.min())
    assert reachable.largest["latency@cpu"] == pytest.approx(values.max())
    assert 0.48 < (values <= reachable.median["latency@cpu"]).mean() < 0.52
    assert reachable.smallest["macs"] == table.column(every_toy_row, "macs").min()


def test_what_cannot_be_reached_is_said_in_its_unit(table, every_toy_row):
    column = Linear(table, macs=1e-6, params=1e-4)
    least, most = column(every_toy_row).min(), column(every_toy_row).max()
    with pytest.raises(ValueError, match="no network of space 'toy' fits") as raised:
        proposed(table, "20MFLOPs,1ms@cpu", column).check()
    assert "1.81M to 87M MACs" in str(raised.value)
    assert f"{least:.3g} ms to {most:.3g} ms on cpu" in str(raised.value)
    memory = Linear(table, "memory", params=4)
    with pytest.raises(ValueError, match="uses 95% to 100% of the budget '1GB'") as raised:
        proposed(table, "1GB", memory).check()
    assert "268kB to 513kB of memory; the most that was found uses 0.1%" in str(raised.value)


def test_a_limit_without_its_column_is_refused(table):
    with pytest.raises(ValueError, match="unknown cost 'latency@cpu'"):
        proposed(table, "20MFLOPs,8ms@cpu")


def test_results_hold_what_was_predicted(table):
    column = Linear(table, macs=1e-6, params=1e-4)
    proposals = proposed(
        table,
        "60MFLOPs,30ms@cpu",
        column,
        objectives=("macs", "activations", "latency@cpu"),
    )
    assert proposals.objectives == ("score", "macs", "activations", "latency@cpu")
    assert proposals.cost_names == ("macs", "params", "latency@cpu", "activations")
    subject = Networks(proposals)
    row = tuple(proposals.sample(np.random.default_rng(0), 1, BAND)[0].tolist())
    genome = subject.candidate(row)
    outcomes = [Outcome(Score(0.5, {"top1": 0.4}), 2.0), Outcome(None, 1.0, "it broke")]
    for outcome in outcomes:  # the second time the row is not under way any more
        result = subject.result(row, outcome)
        cost = genome.cost()
        latency = 1e-6 * cost.macs + 1e-4 * cost.params
        assert (result.genome, result.cost) == (genome, cost)
        assert result.costs == {
            "latency@cpu": pytest.approx(latency),
            "activations": cost.activations,
        }
        if outcome.score is not None:
            assert result.reward == pytest.approx(absolute_reward(0.5, latency / 30))
        else:
            assert (result.score, result.reward, result.error) == (None, None, "it broke")
    use, *costs = proposals.racing_costs([genome])[0]
    assert use == pytest.approx(latency / 30)
    assert costs == [cost.macs, cost.activations, pytest.approx(latency)]
    assert proposals.racing_costs([]) == []
