"""Which networks are drawn: fair ones by count, both kinds by seed and state."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from trainings import LAYERED, layered

from space.files import load_space, make_space
from supernet.recipe import SAMPLINGS
from supernet.sampling import Even, make_sampler

DRAWS = 400


def drawn(space, name, draws=DRAWS, size=3, seed=0):
    sampler = make_sampler(name, space, seed)
    return np.concatenate([sampler.draw(step, size) for step in range(draws)])


def updates(space, rows):
    """How often each part is trained: position of a block -> option -> part -> count."""
    counts = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        for placed in space.decode(row).parts():
            if ".blocks." in placed.path:
                _, stage, _, position = placed.path.split(".")
                slot = space.stages[int(stage)].block(int(position))
                counts[placed.path][slot.option_of(placed.part)][placed.part] += 1
    return counts


def options_of(space, rows):
    """The same, whatever the genes of the parts: position -> option -> count."""
    return {
        path: Counter({option: sum(parts.values()) for option, parts in found.items()})
        for path, found in updates(space, rows).items()
    }


def spread(counts):
    return max(counts.values()) - min(counts.values())


def test_fair_trains_each_operator_of_each_position_equally_often():
    """Blocks that are alike: to one card for each depth of the stage that reaches the position."""
    space = layered()
    for path, counts in options_of(space, drawn(space, "fair")).items():
        stage, position = int(path.split(".")[1]), int(path.rpartition(".")[2])
        depths = space.stages[stage].depth.choices
        assert len(counts) == len(space.stages[stage].blocks[0].options)
        assert spread(counts) <= sum(depth > position for depth in depths), path


def test_fair_where_blocks_are_free():
    """To one card: a position's operators are dealt whenever there is the position."""
    space = layered("free")
    counted = options_of(space, drawn(space, "fair"))
    assert {path.split(".")[1] for path in counted} == {"0", "1"}
    assert all(spread(counts) <= 1 for counts in counted.values())


@pytest.mark.parametrize("blocks", ["alike", "free"])
def test_fair_trains_each_setting_of_an_operator_equally_often(blocks):
    """Genes as well as operators: counted over the parts that were used."""
    space = layered(blocks)
    rows = drawn(space, "fair")
    for path, found in updates(space, rows).items():
        for parts in found.values():
            assert spread(parts) <= 3, path  # depths of a stage
    stems = Counter(space.decode(row).stem for row in rows)
    assert len(stems) == 2
    assert spread(stems) <= 1


def test_uniform_is_not_fair():
    space = layered()
    counted = options_of(space, drawn(space, "uniform"))
    assert max(spread(counts) for counts in counted.values()) > 10
    expected = DRAWS * 3 * 2 / 3 / 3  # draws with a first block, of three depths and operators
    assert all(abs(c - expected) < 80 for c in counted["stages.0.blocks.0"].values())


def test_a_single_option_has_nothing_to_deal():
    stage = {**LAYERED["stages"][1], "operators": ["wide"], "depth": [2]}
    space = make_space({**LAYERED, "stages": [stage]})
    rows = drawn(space, "fair", draws=10)
    assert {len(space.decode(row).stages[0].blocks) for row in rows} == {2}


# ---- seed and state


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("blocks", ["alike", "free"])
def test_rows_are_of_the_space(name, blocks):
    space = layered(blocks)
    rows = drawn(space, name, draws=100)
    assert np.array_equal(space.canonical(rows), rows)
    assert (rows < space.cardinalities).all()
    assert len({tuple(row) for row in rows}) > 50


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_seed_decides(name):
    space = layered()
    one, same, other = (drawn(space, name, draws=20, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_state_comes_back_from_json(name):
    space = layered()
    whole = drawn(space, name, draws=30)
    begun = make_sampler(name, space, 0)
    for step in range(13):
        begun.draw(step, 3)
    resumed = make_sampler(name, space, 0)
    resumed.state = json.loads(json.dumps(begun.state))
    rest = np.concatenate([resumed.draw(step, 3) for step in range(13, 30)])
    assert np.array_equal(rest, whole[39:])


def test_even_draws_every_network_equally_often():
    """Of the 3,969 networks of NAS-Bench-Macro, 9 x 21 x 21, and of a space of blocks alike."""
    space = load_space("nasbench_macro")
    rows = Even(space, 0).draw(0, 40_000)
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(counts) > 0.999 * space.size
    expected = len(rows) / space.size
    deviation = ((counts - expected) ** 2).sum() / expected / space.size  # chi-squared over freedom
    assert 0.9 < deviation < 1.1
    depths = [len(space.decode(row).stages[2].blocks) for row in rows[:4000]]
    for depth, networks in ((0, 1), (1, 2), (2, 4)):
        share = np.mean([d == depth for d in depths])
        assert abs(share - networks / 7) < 0.03
