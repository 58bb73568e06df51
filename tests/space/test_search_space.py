"""Rows of integers and the networks they stand for, against brute force."""

import dataclasses
import re

import numpy as np
import pytest

from space.files import load_space, make_space
from space.genome import Genome
from space.search_space import Choice


@pytest.fixture(scope="module")
def unified():
    return load_space("unified")


def rng(seed=0):
    return np.random.default_rng(seed)


def active_by_hand(space, row):
    """One row at a time, from the words of `Variable`."""

    def matters(v):
        return all(matters(p) and row[p] in codes for p, codes in space.variables[v].conditions)

    return [matters(v) for v in range(len(space.variables))]


# ---- all networks of a small space


def test_rows_are_all_networks_and_each_once(small):
    decoded = [small.space.decode(row) for row in small.rows]
    assert set(decoded) == small.genomes
    assert len(decoded) == len(small.genomes) == small.space.size


def test_encode_is_the_inverse_of_decode(small):
    for row in small.rows:
        assert np.array_equal(small.space.encode(small.space.decode(row)), row)


def test_every_network_is_in_the_space(small):
    assert all(genome in small.space for genome in small.genomes)


def test_active_variables(small):
    active = small.space.active(small.rows)
    for row, found in zip(small.rows, active, strict=True):
        assert found.tolist() == active_by_hand(small.space, row)


def test_what_does_not_matter_changes_no_network(small):
    space = small.space
    noise = np.where(space.active(small.rows), small.rows, rng().integers(0, space.cardinalities))
    assert (noise != small.rows).any()
    assert np.array_equal(space.canonical(noise), small.rows)
    for row, other in zip(small.rows, noise, strict=True):
        assert space.decode(row) == space.decode(other)


def test_samples_are_uniform_over_each_variable(small):
    space = small.space
    codes = space.sample_codes(rng(), 6000)
    assert np.array_equal(codes, space.canonical(codes))
    active = space.active(codes)
    for v, variable in enumerate(space.variables):
        chosen = codes[active[:, v], v]
        counts = np.bincount(chosen, minlength=len(variable.choices))
        expected = len(chosen) / len(counts)
        assert (abs(counts - expected) < 5 * np.sqrt(expected)).all(), variable.name


# ---- mutation and crossover


def spaces(small, unified):
    return [small.space, unified]


@pytest.mark.parametrize("late", [False, True])
def test_a_mutant_differs_in_one_decision(small, unified, late):
    """In one variable that matters before; others only come to life or cease to matter."""
    for space in spaces(small, unified):
        rows = space.sample_codes(rng(1), 2000)
        mutants = space.mutate_codes(rows, rng(2), late=late)
        assert np.array_equal(mutants, space.canonical(mutants))
        assert ((mutants >= 0) & (mutants < space.cardinalities)).all()
        both = space.active(rows) & space.active(mutants)
        assert (((rows != mutants) & both).sum(1) == 1).all()
        for row, mutant in zip(rows[:50], mutants[:50], strict=True):
            assert space.decode(row) != space.decode(mutant)


@pytest.mark.parametrize("late", [False, True])
def test_every_variable_and_value_can_mutate(small, late):
    space = small.space
    rows = space.sample_codes(rng(1), 40_000 if late else 4000)
    mutants = space.mutate_codes(rows, rng(2), late=late)
    both = space.active(rows) & space.active(mutants)
    pairs = {
        (v, int(rows[i, v]), int(mutants[i, v]))
        for i, v in zip(*np.nonzero((rows != mutants) & both), strict=True)
    }
    expected = {
        (v, a, b)
        for v, count in enumerate(space.cardinalities)
        for a in range(count)
        for b in range(count)
        if a != b
    }
    assert pairs == expected


@pytest.mark.parametrize("late", [False, True])
def test_which_variable_changes(small, unified, late):
    """Of n that matter all are alike, or, of the later of two, the k-th has (2k - 1) / n^2; and
    all before it stay as they are."""
    for space in spaces(small, unified):
        for row in space.sample_codes(rng(4), 5):
            rows = np.repeat(row[None], 6000, axis=0)
            mutants = space.mutate_codes(rows, rng(5), late=late)
            changed = (rows != mutants).argmax(axis=1)
            places = np.flatnonzero(space.active(row[None])[0])
            n, k = len(places), np.arange(1, len(places) + 1)
            expected = 6000 * ((2 * k - 1) / n**2 if late else np.full(n, 1 / n))
            counts = np.bincount(changed, minlength=len(row))
            assert counts.sum() == counts[places].sum()
            assert (abs(counts[places] - expected) < 5 * np.sqrt(expected)).all()


def test_the_default_draws_what_it_always_drew(unified):
    """A history depends on it: the numbers that are drawn, in their order, by hand."""
    rows, others = unified.sample_codes(rng(1), 50), unified.sample_codes(rng(2), 50)
    sizes, each = unified.cardinalities, np.arange(50)
    one, other = rng(3), rng(3)
    active = unified.active(rows)
    chosen = np.where(active, other.random(rows.shape), -1).argmax(axis=1)
    steps = 1 + (other.random(50) * (sizes[chosen] - 1)).astype(int)
    expected = np.where(active, rows, other.integers(0, sizes, rows.shape))
    expected[each, chosen] = (rows[each, chosen] + steps) % sizes[chosen]
    assert np.array_equal(unified.mutate_codes(rows, one), unified.canonical(expected))
    theirs = unified.active(others)
    mine = np.where(active == theirs, other.random(rows.shape) < 0.5, active)
    orphans = other.integers(0, sizes, rows.shape)
    expected = np.where(active | theirs, np.where(mine, rows, others), orphans)
    assert np.array_equal(unified.cross_codes(rows, others, one), unified.canonical(expected))
    assert one.random() == other.random()


@pytest.mark.parametrize("one_point", [False, True])
def test_a_child_takes_each_variable_from_a_parent(small, unified, one_point):
    for space in spaces(small, unified):
        mothers, fathers = (space.sample_codes(rng(seed), 2000) for seed in (1, 2))
        children = space.cross_codes(mothers, fathers, rng(3), one_point=one_point)
        assert np.array_equal(children, space.canonical(children))
        in_child = space.active(children)
        in_mother, in_father = space.active(mothers), space.active(fathers)
        from_mother = in_mother & (children == mothers)
        from_father = in_father & (children == fathers)
        orphan = in_child & ~in_mother & ~in_father
        assert (from_mother | from_father | orphan | ~in_child).all()
        assert ((children >= 0) & (children < space.cardinalities)).all()
        mixed = (children != mothers).any(1) & (children != fathers).any(1)
        assert mixed.mean() > 0.5


@pytest.mark.parametrize("one_point", [False, True])
def test_the_child_of_equal_parents_is_the_parent(small, one_point):
    rows = small.rows
    assert np.array_equal(small.space.cross_codes(rows, rows, rng(), one_point=one_point), rows)


def test_a_child_of_one_point_begins_as_its_mother(small, unified):
    """Of what matters in both parents and differs, the mother's comes first, then the father's."""
    for space in spaces(small, unified):
        mothers, fathers = (space.sample_codes(rng(seed), 2000) for seed in (1, 2))
        children = space.cross_codes(mothers, fathers, rng(3), one_point=True)
        matters = space.active(mothers) & space.active(fathers) & space.active(children)
        for mother, father, child, mattering in zip(
            mothers, fathers, children, matters, strict=True
        ):
            differ = mother != father
            from_father = np.flatnonzero(differ & mattering & (child == father))
            from_mother = np.flatnonzero(differ & mattering & (child == mother))
            if len(from_father) and len(from_mother):
                assert from_mother[-1] < from_father[0]
            if differ.any():
                kept = from_father[0] if len(from_father) else differ.argmax() + 1
                assert kept > differ.argmax()
                assert np.array_equal(child[:kept], mother[:kept])


def test_where_a_child_of_one_point_is_cut(unified):
    """Anywhere but before the first difference; the child of parents that differ once is the
    mother."""
    places = [v for v, variable in enumerate(unified.variables) if "channels" in variable.name]
    mother = np.zeros(len(unified.variables), np.int64)
    father = mother.copy()
    father[places] = 1
    mothers, fathers = (np.repeat(row[None], 6000, axis=0) for row in (mother, father))
    children = unified.cross_codes(mothers, fathers, rng(), one_point=True)
    counts = np.bincount((children[:, places] == 0).sum(axis=1), minlength=len(places) + 1)
    expected = 6000 / (len(places) - 1)
    assert counts[0] == counts[-1] == 0
    assert (abs(counts[1:-1] - expected) < 5 * np.sqrt(expected)).all()
    father[places[1:]] = 0
    assert np.array_equal(
        unified.cross_codes(mothers[:9], father[None], rng(), one_point=True), mothers[:9]
    )


def test_one_genome_at_a_time(unified):
    mother, father = (unified.sample(rng(seed)) for seed in (0, 1))
    assert unified.mutate(mother, rng()) != mother
    for genome in (mother, unified.mutate(mother, rng()), unified.cross(mother, father, rng())):
        assert isinstance(genome, Genome)
        assert genome in unified
        assert unified.decode(unified.encode(genome)) == genome


@pytest.mark.parametrize("draw", ["sample", "mutate", "cross", "mutate late", "cross once"])
def test_the_generator_decides(unified, draw):
    rows, others = unified.sample_codes(rng(8), 50), unified.sample_codes(rng(9), 50)
    made = {
        "sample": lambda seed: unified.sample_codes(rng(seed), 50),
        "mutate": lambda seed: unified.mutate_codes(rows, rng(seed)),
        "cross": lambda seed: unified.cross_codes(rows, others, rng(seed)),
        "mutate late": lambda seed: unified.mutate_codes(rows, rng(seed), late=True),
        "cross once": lambda seed: unified.cross_codes(rows, others, rng(seed), one_point=True),
    }[draw]
    assert np.array_equal(made(0), made(0))
    assert not np.array_equal(made(0), made(1))


def single():
    return make_space(
        {
            "name": "single",
            "resolution": [16],
            "stem": {"convolution": {"channels": [8]}},
            "stages": [{"channels": [8], "depth": [1], "operators": {"modulation": {}}}],
            "head": {"pooled": {}},
        }
    )


def test_a_space_of_one_network():
    space = single()
    assert (space.size, len(space.variables)) == (1, 0)
    codes = space.sample_codes(rng(), 3)
    assert codes.shape == (3, 0)
    genome = space.decode(codes[0])
    assert len(space.encode(genome)) == 0
    with pytest.raises(ValueError, match="'single' holds a single network"):
        space.mutate_codes(codes, rng())
    assert space.cross_codes(codes, codes, rng(), one_point=True).shape == (3, 0)


# ---- what lies outside


def test_encode_says_what_lies_outside(small):
    space = small.space
    genome = space.decode(small.rows[0])
    first, last = genome.stages
    foreign = single().sample(rng()).stages[0].blocks
    cases = [
        (genome.at(resolution=64), "resolution is 64, but must be one of 16"),
        (genome.at(classes=8), "classes is 8, but must be 7"),
        (genome.at(stages=(first,)), "1 stages, but must be 2"),
        (
            genome.at(stages=(stage(first, channels=20), last)),
            "stages.0.channels is 20, but must be one of 8, 12",
        ),
        (
            genome.at(stages=(stage(first, blocks=first.blocks[:1] * 3), last)),
            "stages.0.depth is 3, but must be one of 1, 2",
        ),
        (
            genome.at(stages=(first, stage(last, stride=1))),
            "stages.1.stride is 1, but must be 2",
        ),
        (
            genome.at(stages=(stage(first, downsample=last.downsample), last)),
            "stages.0 must have no DSM",
        ),
        (
            genome.at(stages=(stage(first, blocks=foreign), last)),
            "is 'modulation', but must be one of 'inverted_bottleneck'",
        ),
    ]
    for outside, message in cases:
        assert outside not in space
        with pytest.raises(ValueError, match=re.escape(message)):
            space.encode(outside)


def stage(original, **changes):
    values = {
        name: getattr(original, name) for name in ("channels", "blocks", "downsample", "stride")
    }
    return type(original)(**values | changes)


def test_blocks_that_must_be_alike(unified):
    genome = unified.sample(rng())
    last = genome.stages[-1]
    others = [unified.sample(rng(seed)).stages[-1].blocks[0] for seed in range(30)]
    different = next(block for block in others if block != last.blocks[0])
    mixed = stage(last, blocks=(*last.blocks[:-1], different))
    assert len(mixed.blocks) > 1
    with pytest.raises(ValueError, match=r"stages\.4: its blocks differ"):
        unified.encode(genome.at(stages=(*genome.stages[:-1], mixed)))


def test_values_of_another_type_are_others():
    """In Python 1 == True == 1.0."""
    row = np.zeros(1, np.int64)
    choice = Choice((False, True), 0)
    choice.write(True, row, "x")
    assert row[0] == 1
    for value in (1, 1.0):
        with pytest.raises(ValueError, match="x is 1"):
            choice.write(value, row, "x")


# ---- proxies


def test_a_proxy_has_the_same_rows(unified):
    proxy = unified.scaled(width=0.125, resolution=32, classes=10)
    assert proxy.variables == unified.variables
    assert proxy.size == unified.size
    for row in unified.sample_codes(rng(), 50):
        genome, small = unified.decode(row), proxy.decode(row)
        assert proxy.decode(proxy.encode(small)) == small  # two widths may have become one
        assert (small.classes, small.resolution) == (10, 32)
        assert small.stem.channels == max(4, 2 * round(genome.stem.channels / 16))
        for wide, narrow in zip(genome.stages, small.stages, strict=True):
            assert narrow.channels == max(4, 2 * round(wide.channels / 16))
            assert (narrow.blocks, narrow.stride) == (wide.blocks, wide.stride)
            assert narrow.downsample == wide.downsample


def test_a_proxy_of_the_same_size_is_the_space(small):
    space = small.space
    same = space.scaled(width=1, resolution=max(space.resolution.choices), classes=space.classes)
    for row in small.rows[::7]:
        assert same.decode(row) == space.decode(row)


def test_resolutions_scale_in_proportion():
    space = load_space("unified", resolution=[160, 192, 224])
    proxy = space.scaled(width=1, resolution=96, classes=1000)
    stride = space.total_stride
    assert stride == 32
    assert proxy.resolution.choices == (64, 96, 96)  # 68.6 and 82.3, to multiples of 32


def test_stems_of_several_strides_are_refused():
    with pytest.raises(ValueError, match="the stem must have one stride"):
        load_space("unified", stem={"convolution": {"step": [2, 4]}})


# ---- options


def named(**options):
    """A space with one stage whose blocks choose among `options`."""
    return make_space(
        {
            "name": "named",
            "resolution": [8],
            "stem": {"convolution": {"channels": [8], "step": [1], "kernel": [3]}},
            "blocks": "free",
            "operators": options,
            "stages": [
                {
                    "channels": [8],
                    "depth": [0, 2],
                    "downsampling": ["strided_convolution"],
                    "operators": list(options),
                }
            ],
            "head": {"pooled": {}},
        }
    )


def test_a_kind_may_stand_under_several_names():
    """Each with its own genes: of 2 x 2 values only the pairs that are listed exist."""
    space = named(
        small={"kind": "inverted_bottleneck", "expansion": [1], "context": [3]},
        large={"kind": "inverted_bottleneck", "expansion": [4], "context": [5, 7]},
    )
    assert space.size == 1 + 3**2
    rows = space.sample_codes(np.random.default_rng(0), 200)
    seen = set()
    for row in rows:
        genome = space.decode(row)
        assert (space.encode(genome) == row).all()
        seen |= {(b.expansion, b.context) for b in genome.stages[0].blocks}
    assert seen == {(1, 3), (4, 5), (4, 7)}
    outside = space.decode(rows[rows[:, 0] > 0][0])
    block = dataclasses.replace(outside.stages[0].blocks[0], expansion=1, context=7)
    stage = dataclasses.replace(outside.stages[0], blocks=(block, block))
    with pytest.raises(ValueError, match=r"stages\.0\.blocks\.0.*context is 7"):
        space.encode(dataclasses.replace(outside, stages=(stage,)))


def test_a_gene_that_the_space_leaves_alone_has_its_default():
    space = named(inverted_bottleneck={"expansion": [1, 2]})
    row = next(r for r in space.sample_codes(np.random.default_rng(0), 20) if r[0])
    genome = space.decode(row)
    block = dataclasses.replace(genome.stages[0].blocks[0], activation="relu")
    stage = dataclasses.replace(genome.stages[0], blocks=(block, block))
    with pytest.raises(ValueError, match="activation is 'relu'"):
        space.encode(dataclasses.replace(genome, stages=(stage,)))


def test_a_stage_without_blocks_has_no_genes_of_blocks():
    space = named(inverted_bottleneck={"expansion": [1, 2]})
    rows = space.sample_codes(np.random.default_rng(0), 100)
    assert {len(space.decode(row).stages[0].blocks) for row in rows} == {0, 2}
    assert (rows[rows[:, 0] == 0][:, 1:] == 0).all()
