"""Scores of a population are those of its networks one by one."""

from functools import cache

import numpy as np
import pytest
import torch
from small_spaces import LAYERS

from evaluator.population import PopulationScorer
from evaluator.scoring import SupernetEvaluator
from space.files import load_space, make_space, read_definition
from supernet.augmentation import normalise
from supernet.network import Supernet

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def noise(count, side):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 10


@cache
def spaces():
    macro = load_space("nasbench_macro").scaled(width=0.25, resolution=16, classes=10)
    layers = make_space(LAYERS).scaled(width=1, resolution=16, classes=10)
    definition = read_definition("nasbench_macro") | {"resolution": [16, 32]}
    several = make_space(definition).scaled(width=0.25, resolution=32, classes=10)
    return {"BatchNorm": macro, "LayerNorm": layers, "two resolutions": several}


@cache
def shaken(name):
    """A supernet in which nothing is zero or one, so that all parts matter."""
    space = spaces()[name]
    supernet = Supernet(space)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in supernet.weights.values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return supernet


def family(space, count=4):
    """Random networks and their mutants, some of them twice."""
    rng = np.random.default_rng(0)
    rows = space.sample_codes(rng, count)
    rows = np.concatenate([rows, space.mutate_codes(rows, rng), rows[:1]])
    return [space.decode(row) for row in rows]


def pixels(images):
    return normalise(images, MEAN, STD)


def common(space, count=12, chunk=100):
    """Images, labels and the settings that every scorer of a test has."""
    side = max(space.resolution.choices)
    images, labels = noise(count, side)
    return images, labels, {"calibration": noise(20, side)[0], "normalise": pixels, "chunk": chunk}


@pytest.mark.parametrize("name", spaces())
@pytest.mark.parametrize(("chunk", "memory"), [(5, 0), (100, 2**30), (5, 200_000)])
def test_one_by_one(name, chunk, memory):
    """Exactly; whether nothing, all or some of the prefixes are kept, and the second time, too."""
    space = spaces()[name]
    supernet, genomes = shaken(name), family(space)
    images, labels, options = common(space, chunk=chunk)
    alone = SupernetEvaluator(supernet, images, labels, proxy=lambda genome: genome, **options)
    expected = [alone.evaluate(genome) for genome in genomes]
    together, heard = PopulationScorer(supernet, images, labels, memory=memory, **options), []
    found = together.scores(genomes, progress=lambda *now: heard.append(now))
    assert found == expected
    chunks = -(-len(images) // chunk)
    assert heard[-1] == (chunks * len(genomes), chunks * len(genomes))
    assert len({score.score for score in found}) > 4
    assert together.scores(genomes[::-1]) == expected[::-1]
    if memory in (0, 2**30):
        assert (together.cache.hits > 0) == (memory > 0)
    assert together.cache.used <= memory


def test_image_by_image():
    """Also of a part of the images; and means are those of the single images."""
    space = spaces()["LayerNorm"]
    supernet, genomes = shaken("LayerNorm"), family(space, 2)
    images, labels, options = common(space, chunk=4)
    scorer = PopulationScorer(supernet, images, labels, looks=(6, 12), memory=2**30, **options)
    parts = [scorer.measure(genomes, 0, 6), scorer.measure(genomes, 6, 12)]
    whole = scorer.measure(genomes)
    for genome, first, second, both in zip(genomes, *parts, whole, strict=True):
        logits = torch.cat(
            [supernet(genome, pixels(chunk)) for chunk in images.split([4, 2, 4, 2])]
        )
        expected = logits.double().softmax(1).gather(1, labels[:, None])[:, 0].detach()
        torch.testing.assert_close(both.probabilities(), expected, rtol=1e-12, atol=0)
        first.extend(second)
        assert (first.probabilities() == both.probabilities()).all()
        assert (first.right() == (logits.argmax(1) == labels)).all()
        assert first.score() == both.score()
    with pytest.raises(ValueError, match="begins at image 3"):
        scorer.measure(genomes, 3, 12)


class Counting:
    """A supernet that counts what it is asked to run, and may fail."""

    def __init__(self, supernet, fails=lambda placed, x: None):
        self.supernet, self.fails, self.runs, self.sizes = supernet, fails, [], []

    def __getattr__(self, name):
        return getattr(self.supernet, name)

    def run(self, placed, x, **options):
        self.fails(placed, x)
        self.runs.append(placed)
        self.sizes.append(len(x))
        return self.supernet.run(placed, x, **options)


def test_what_is_common_runs_once():
    """As often as there are different beginnings; with kept prefixes, only what is new."""
    space = spaces()["LayerNorm"]
    counting, genomes = Counting(shaken("LayerNorm")), family(space)
    images, labels, options = common(space)
    scorer = PopulationScorer(counting, images, labels, memory=2**30, **options)
    scorer.scores(genomes[:4])
    beginnings = {
        tuple(path[: i + 1])
        for path in (list(genome.parts()) for genome in genomes[:4])
        for i in range(len(path))
    }
    assert len(counting.runs) == len(beginnings)
    counting.runs.clear()
    for child in genomes[4:]:
        path = list(child.parts())
        new = [p for i, p in enumerate(path) if tuple(path[: i + 1]) not in beginnings]
        counting.runs.clear()
        scorer.scores([child])
        # The head's outputs are not kept: a network is not scored twice.
        assert counting.runs == (new or path[-1:])
        beginnings |= {tuple(path[: i + 1]) for i in range(len(path))}


def test_memory_that_runs_out_lowers_the_chunk():
    """For good, down to what fits; and changes no score but by rounding."""
    space = spaces()["LayerNorm"]
    supernet, genomes = shaken("LayerNorm"), family(space, 2)
    images, labels, options = common(space)
    expected = PopulationScorer(supernet, images, labels, **options).scores(genomes)

    def small(placed, x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    counting = Counting(supernet, small)
    scorer = PopulationScorer(counting, images, labels, memory=2**30, **options)
    found = scorer.scores(genomes)
    assert [f.score for f in found] == pytest.approx([e.score for e in expected], rel=1e-5)
    assert max(counting.sizes) == 3
    counting.sizes.clear()
    scorer.scores(genomes)
    assert set(counting.sizes) <= {3}

    def never(placed, x):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    with pytest.raises(RuntimeError, match="not enough memory"):
        PopulationScorer(Counting(supernet, never), images, labels, **options).scores(genomes)


def test_a_network_that_fails_fails_alone():
    space = spaces()["LayerNorm"]
    supernet, genomes = shaken("LayerNorm"), family(space)
    images, labels, options = common(space, chunk=5)
    expected = PopulationScorer(supernet, images, labels, **options).scores(genomes)
    broken = list(genomes[1].parts())[-3]

    def fails(placed, x):
        if placed == broken:
            raise ValueError("broken")

    with_it = [i for i, genome in enumerate(genomes) if broken in set(genome.parts())]
    found = PopulationScorer(Counting(supernet, fails), images, labels, **options).measure(genomes)
    assert 1 in with_it
    for i, outcome in enumerate(found):
        if i in with_it:
            assert str(outcome) == "broken"
        else:
            assert outcome.score() == expected[i]


def test_a_network_outside_the_supernet_fails_alone():
    space = spaces()["LayerNorm"]
    supernet, genomes = shaken("LayerNorm"), family(space, 2)
    images, labels, options = common(space)
    strange = spaces()["BatchNorm"].sample(np.random.default_rng(0))
    scorer = PopulationScorer(supernet, images, labels, **options)
    expected = scorer.scores(genomes)
    for _ in range(2):
        found = scorer.measure([genomes[0], strange, *genomes[1:]])
        assert isinstance(found[1], Exception)
        assert [one.score() for i, one in enumerate(found) if i != 1] == expected


def test_outputs_that_are_no_numbers():
    """Have no score, and touch no other network's."""
    space = spaces()["LayerNorm"]
    supernet, genomes = shaken("LayerNorm"), family(space)
    images, labels, options = common(space)
    expected = PopulationScorer(supernet, images, labels, **options).scores(genomes)
    bad = dict.fromkeys(list(genomes[0].parts())[1:2], 1)

    class Poisoned(Counting):
        def run(self, placed, x, **more):
            y = super().run(placed, x, **more)
            return y * torch.nan if placed in bad else y

    found = PopulationScorer(Poisoned(supernet), images, labels, **options).measure(genomes)
    for i, outcome in enumerate(found):
        if set(genomes[i].parts()) & set(bad):
            assert not outcome.finite()
            with pytest.raises(RuntimeError, match="not numbers"):
                outcome.score()
        else:
            assert outcome.score() == expected[i]
