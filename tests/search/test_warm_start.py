"""Published networks become rows of a space at the budget, and every search scores them first."""

from dataclasses import replace

import numpy as np
import pytest

from evaluator.interfaces import Score
from results.store import Store
from search.controllers import CONTROLLERS, make_controller
from search.loop import search
from search.networks import NetworkProposals, Networks
from search.proposals import BAND
from search.runner import local_runner
from search.state import pack, unpack
from search.warm_start import nearest_row, project, warm_start
from space.budget import Budget
from space.cost_table import CostTable
from space.downsampling.strided_convolution import StridedConvolution
from space.files import make_space
from space.genes import lookup
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.modulation import Modulation
from space.operators.normalise import Normalise
from space.presets.published import Preset
from space.stems.convolution import ConvolutionStem

# Strides 4, 8, 8; two kinds, of which the first stage has one.
SPACE = {
    "name": "pyramid",
    "resolution": [96, 128, 160],
    "stem": {"convolution": {"channels": [16, 24, 32]}},
    "operators": {
        "inverted_bottleneck": {"expansion": [2, 4], "context": [3, 7]},
        "modulation": {"expansion": [2, 4], "levels": [2, 3]},
    },
    "downsampling": {"strided_convolution": {"kernel": [2, 3]}, "local_dsm": {}},
    "stages": [
        {
            "channels": [16, 24, 32, 48, 64],
            "depth": [1, 2, 3, 4],
            "stride": 2,
            "downsampling": ["strided_convolution"],
            "operators": ["inverted_bottleneck"],
        },
        *(
            {
                "channels": [32, 48, 64, 96, 128],
                "depth": [1, 2, 3, 4, 5, 6],
                "stride": stride,
                "downsampling": ["local_dsm", "strided_convolution"],
                "operators": ["inverted_bottleneck", "modulation"],
            }
            for stride in (2, 1)
        ),
    ],
    "head": {"pooled": {}},
}
SMALL = {
    "evolution": {"population": 10, "tournament": 4},
    "reinforce": {"hidden": 8, "pool": 32},
    "random": {},
}
every_controller = pytest.mark.parametrize("name", CONTROLLERS)


@pytest.fixture(scope="module")
def table():
    return CostTable(make_space(SPACE))


@pytest.fixture(scope="module")
def proposals(table):
    return NetworkProposals(table.space, table, Budget.parse("200MFLOPs"))


def stage(channels, blocks, stride=2, module=None):
    return Stage(
        channels=channels,
        blocks=tuple(blocks),
        downsample=module or StridedConvolution(kernel=2),
        stride=stride,
    )


def network(*stages, **changes):
    """A network of its own sizes, not of the space."""
    first = stage(40, [InvertedBottleneck(context=5)] * 2)
    given = {"stages": (first, *stages), "resolution": 112, "head": PooledHead()}
    return Genome(stem=ConvolutionStem(channels=20), **{**given, **changes})


def known(name, genome, top1=None):
    figures = ("params", "gmacs", "published_params_m", "published_gmacs")
    return Preset(
        name=name,
        system="tests",
        variant=name,
        kind="hybrid",
        genome=genome,
        source="tests",
        top1=top1,
        **dict.fromkeys(figures),
    )


PLAIN = network(stage(72, [InvertedBottleneck(context=5)] * 3))
FOCAL = network(stage(72, [Modulation(levels=2)] * 3))


# ---- rows


def test_a_row_of_the_space_at_the_budget_is_itself(proposals):
    for row in proposals.sample(np.random.default_rng(0), 20, BAND):
        genome = proposals.space.decode(row)
        assert nearest_row(proposals, genome).tolist() == row.tolist()


@pytest.mark.parametrize("budget", ["30MFLOPs", "200MFLOPs", "800MFLOPs", "400kparams"])
def test_rows_are_at_the_budget(table, budget):
    proposals = NetworkProposals(table.space, table, Budget.parse(budget))
    starts = warm_start(proposals, [known("plain", PLAIN), known("focal", FOCAL)])
    assert [start.name for start in starts] == ["focal", "plain"]
    for start in starts:
        cost = table.space.decode(start.row).cost()
        assert BAND <= proposals.budget.use(cost) <= 1
        assert proposals.budget.allows(cost)


def test_all_limits_hold(table):
    proposals = NetworkProposals(table.space, table, Budget.parse("200MFLOPs,250kparams"))
    (start,) = warm_start(proposals, [known("plain", PLAIN)])
    cost = table.space.decode(start.row).cost()
    assert cost.params <= 250_000
    assert BAND <= cost.macs / 200e6 <= 1


def test_rows_are_different_and_the_most_accurate_come_first(proposals):
    same = replace(PLAIN, classes=10)
    networks = [
        known("low", PLAIN, 70.0),
        known("unknown", FOCAL),
        known("high", same, 80.0),
    ]
    assert [start.name for start in warm_start(proposals, networks)] == ["high", "unknown"]


def test_kinds_and_genes_are_the_nearest(proposals):
    genome = network(
        stage(72, [Modulation(levels=3, expansion=3)] * 4, module=StridedConvolution(kernel=7)),
        stage(72, [InvertedBottleneck(context=9, expansion=3.6)] * 4, stride=1),
    )
    found = proposals.space.decode(nearest_row(proposals, genome))
    first, second, third = found.stages
    assert [s.blocks[0].kind for s in found.stages] == [
        "inverted_bottleneck",
        "modulation",
        "inverted_bottleneck",
    ]
    assert second.blocks[0].levels == 3
    assert (third.blocks[0].context, third.blocks[0].expansion) == (7, 4)
    assert second.downsample == StridedConvolution(kernel=3)
    assert first.channels < second.channels


def test_what_a_space_has_no_word_for_is_what_it_lists_first(proposals):
    """A downsampling module that is an operator, and a gene without a number near it."""
    leading = InvertedBottleneck(context=3)
    genome = network(stage(72, [Modulation()] * 3, module=leading))
    found = proposals.space.decode(nearest_row(proposals, genome))
    assert found.stages[1].downsample.kind == "local_dsm"


def test_sizes_keep_their_proportion(proposals):
    """A network twice as deep in one stage stays deeper there."""
    genome = network(
        stage(64, [InvertedBottleneck()] * 2), stage(64, [InvertedBottleneck()] * 6, stride=1)
    )
    found = proposals.space.decode(nearest_row(proposals, genome))
    assert len(found.stages[1].blocks) < len(found.stages[2].blocks)


# ---- which networks a space can say


def test_blocks_are_shared_among_the_stages_of_a_stride(proposals):
    blocks = [Modulation(levels=2), Modulation(levels=3)] * 2 + [Modulation(levels=2)]
    shares = project(proposals.space, network(stage(72, blocks)))
    assert [[block.part for block in share] for share in shares[1:]] == [blocks[:2], blocks[2:]]
    only = network(stage(72, blocks[:1]))
    assert [len(share) for share in project(proposals.space, only)] == [2, 1, 1]


def test_stages_of_the_network_are_kept_where_there_are_as_many(proposals):
    genome = network(stage(72, [Modulation()]), stage(96, [InvertedBottleneck()] * 5, stride=1))
    assert [len(share) for share in project(proposals.space, genome)] == [2, 1, 5]


def test_a_mixer_and_its_inverted_bottleneck_are_one_block(proposals):
    pair = [Modulation(expansion=0), InvertedBottleneck(expansion=2, context=0)]
    genome = network(stage(72, pair * 3))
    shares = project(proposals.space, genome)
    assert [len(share) for share in shares] == [2, 1, 2]
    assert {block.expansion for share in shares[1:] for block in share} == {2}
    found = proposals.space.decode(nearest_row(proposals, genome))
    assert [s.blocks[0].kind for s in found.stages[1:]] == ["modulation"] * 2
    assert {s.blocks[0].expansion for s in found.stages[1:]} == {2}


def test_operators_without_macs_are_not_looked_at(proposals):
    plain = network(stage(72, [Modulation()] * 3))
    more = network(stage(72, [*[Modulation()] * 3, Normalise()]))
    assert nearest_row(proposals, more).tolist() == nearest_row(proposals, plain).tolist()


def test_networks_that_the_space_cannot_say(proposals, table):
    blocks = [Modulation()] * 3
    elsewhere = network(stages=(stage(40, blocks), stage(72, blocks)))
    deeper = network(stage(72, blocks), stage(96, blocks))
    flat = network()
    assert [project(table.space, genome) for genome in (elsewhere, deeper, flat)] == [None] * 3
    networks = [known(str(i), genome) for i, genome in enumerate((elsewhere, deeper, flat))]
    assert warm_start(proposals, networks) == []


def test_a_kind_that_the_space_lacks(table):
    narrow = {**SPACE, "stages": [dict(entry) for entry in SPACE["stages"]]}
    for entry in narrow["stages"]:
        entry["operators"] = ["inverted_bottleneck"]
    space = make_space(narrow)
    assert project(space, PLAIN) is not None
    assert project(space, FOCAL) is None
    assert project(space, network(stage(72, [InvertedBottleneck(), Modulation()]))) is None


def with_operators(*stages):
    """The space with other operators, one dictionary for each stage."""
    entries = [{**entry, "operators": o} for entry, o in zip(SPACE["stages"], stages, strict=True)]
    return make_space({**SPACE, "stages": entries})


def test_a_kind_may_become_another_of_its_family():
    """Where a stage has not got it; but the main kind must be somewhere."""
    axis, token = lookup("operator", "axis_mlp"), lookup("operator", "token_mlp")
    genome = network(
        stages=(stage(40, [axis(expansion=3)] * 2), stage(72, [axis(expansion=3)] * 3))
    )
    values = {"expansion": [2, 3, 4]}
    mixed = with_operators({"axis_mlp": values}, {"axis_mlp": values}, {"token_mlp": values})
    proposals = NetworkProposals(mixed, CostTable(mixed), Budget.parse("200MFLOPs"))
    found = mixed.decode(nearest_row(proposals, genome))
    assert [type(made.blocks[0]) for made in found.stages] == [axis, axis, token]
    assert {made.blocks[0].expansion for made in found.stages} == {3}
    lost = with_operators(*[{"token_mlp": values}] * 3)
    assert project(lost, genome) is None


def test_blocks_of_their_own(table):
    """Where every block may differ, the chain is kept."""
    space = make_space({**SPACE, "blocks": "free"})
    proposals = NetworkProposals(space, CostTable(space), Budget.parse("200MFLOPs"))
    chain = [Modulation(levels=2), InvertedBottleneck(context=7)]
    found = space.decode(nearest_row(proposals, network(stage(72, chain), stage(72, chain, 1))))
    for made in found.stages[1:]:
        kinds = [block.kind for block in made.blocks]
        assert kinds == (["modulation", "inverted_bottleneck"] * 3)[: len(kinds)]


# ---- controllers


@pytest.fixture(scope="module")
def starts(proposals):
    networks = [
        known("plain", PLAIN, 80.0),
        known("focal", FOCAL, 79.0),
        *(
            known(f"wide{i}", network(stage(72 + 16 * i, [InvertedBottleneck()] * i)), 70 - i)
            for i in range(1, 5)
        ),
    ]
    found = warm_start(proposals, networks)
    assert len(found) == 6
    return found


def make(name, proposals, starts, seed=0):
    first = [start.row for start in starts]
    return make_controller(name, proposals, seed, first=first, **SMALL.get(name, {}))


@every_controller
def test_starts_are_asked_first_and_once(proposals, starts, target, name):
    controller, scores = make(name, proposals, starts), target(proposals)
    asked = []
    for _ in range(8):
        rows = controller.ask(4)
        assert len(rows) == 4
        controller.tell(scores.trials(rows))
        asked += rows
    assert asked[: len(starts)] == [start.row for start in starts]
    assert len(set(asked)) == len(asked)


@every_controller
def test_without_starts_nothing_changes(proposals, target, name):
    scores = target(proposals)
    plain = make_controller(name, proposals, 3, **SMALL.get(name, {}))
    warm = make(name, proposals, [], seed=3)
    for _ in range(4):
        rows = plain.ask(4)
        assert warm.ask(4) == rows
        for controller in (plain, warm):
            controller.tell(scores.trials(rows))


@every_controller
def test_stops_and_resumes_among_the_starts(proposals, starts, target, name):
    """The state holds those that wait: the new controller is given none."""
    scores, steady, state = target(proposals), make(name, proposals, starts, 5), None
    for _ in range(5):
        resumed = make(name, proposals, starts if state is None else [], 5 if state is None else 9)
        if state is not None:
            resumed.load_state_dict(unpack(state))
        rows = steady.ask(4)
        assert resumed.ask(4) == rows
        for controller in (steady, resumed):
            controller.tell(scores.trials(rows))
        state = pack(resumed.state_dict())
        assert state == pack(steady.state_dict())


@every_controller
def test_a_start_that_others_scored_is_left_out(proposals, starts, target, name):
    controller = make(name, proposals, starts)
    controller.tell(target(proposals).trials([start.row for start in starts[1:3]]))
    assert controller.ask(4) == [starts[i].row for i in (0, 3, 4, 5)]


class Constant:
    def evaluate(self, genome):
        return Score(0.5)


def test_rows_say_where_they_are_from(proposals, starts, tmp_path):
    origins = {proposals.space.decode(s.row).digest: f"preset:{s.name}" for s in starts}
    options = {"batch": 4, "origin": "random"}
    with Store(tmp_path / "c.sqlite") as store:
        for evaluations in (5, 12):  # stopped among them, and taken up again
            controller = make("random", proposals, starts)
            subject = Networks(proposals, origins)
            runner = local_runner(Constant())
            search(controller, runner, store, subject, evaluations=evaluations, **options)
        rows = store.rows()
    assert [row.origin for row in rows[:6]] == [f"preset:{start.name}" for start in starts]
    assert {row.origin for row in rows[6:]} == {"random"}
    assert len(rows) == 12
