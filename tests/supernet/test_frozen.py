"""Parts that hold their weights, and graphs of them, against the supernet that they are of."""

import numpy as np
import pytest
import torch
from small_spaces import LAYERS

from evaluator.population import PopulationScorer
from space.files import load_space, make_space
from supernet.frozen import FrozenParts
from supernet.graphs import GraphedParts, RerunParts
from supernet.network import Supernet


@pytest.fixture(scope="module")
def macro():
    """With BatchNorm, which has running statistics."""
    return Supernet(load_space("nasbench_macro").scaled(width=0.25, resolution=16, classes=10))


@pytest.fixture
def small(small_space, random_weights):
    return random_weights(Supernet(small_space))


@pytest.fixture
def layers(small_space, random_weights):
    """The small space with norms that need no statistics."""
    return random_weights(Supernet(make_space(LAYERS)))


def networks(supernet, count=6):
    space = supernet.space
    rng = np.random.default_rng(0)
    rows = space.sample_codes(rng, count)
    return [space.decode(row) for row in np.concatenate([rows, space.mutate_codes(rows, rng)])]


def images(supernet, count=5):
    side = max(supernet.space.resolution.choices)
    return torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def through(parts, genome, x, buffers=None, **options):
    x, branch = parts.shrunk(x, genome.resolution), parts.branch_of(genome)
    for placed in genome.parts():
        kept = (buffers or {}).get(placed.path)
        x = parts.run(placed, x, buffers=kept, branch=branch, **options)
    return x


def test_a_part_computes_what_it_does_in_the_supernet(layers):
    x, frozen = images(layers), FrozenParts(layers)
    for genome in networks(layers):
        expected = layers(genome, x).detach()
        torch.testing.assert_close(through(frozen, genome, x), expected, rtol=1e-5, atol=1e-6)


def test_running_statistics(macro):
    """They come with each call, belong to nobody, and are measured as the supernet does."""
    x, frozen = images(macro), FrozenParts(macro)
    for genome in networks(macro, 3):
        expected = macro.calibrate(genome, [x])
        fresh = {placed.path: frozen.statistics(placed) for placed in genome.parts()}
        through(frozen, genome, x, fresh, training=True)
        for path, values in expected.items():
            for name, value in values.items():
                torch.testing.assert_close(fresh[path][name], value, rtol=1e-5, atol=1e-6)
        found = through(frozen, genome, x, fresh)
        logits = macro(genome, x, buffers=expected).detach()
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)


def test_branches_have_weights_of_their_own(small_space):
    supernet = Supernet(small_space, split_at=["stages.0.blocks"])
    supernet.split()
    with torch.no_grad():
        for i, weight in enumerate(supernet.weights.values()):
            weight.add_(0.01 * (i % 7))
    x, frozen = images(supernet), FrozenParts(supernet)
    seen = set()
    for genome in networks(supernet):
        buffers = supernet.calibrate(genome, [x])
        expected = supernet(genome, x, buffers=buffers).detach()
        found = through(frozen, genome, x, buffers)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        seen.add(supernet.branch_of(genome))
    assert len(seen) > 1


def test_the_skeletons_of_the_supernet_stay_as_they_were(small):
    x, genome = images(small), networks(small)[0]
    buffers = small.calibrate(genome, [x])
    before = small(genome, x, buffers=buffers)
    through(FrozenParts(small), genome, x, buffers)
    for placed in genome.parts():
        module = small.prepare(placed).module
        assert all(parameter.is_meta for parameter in module.parameters())
        assert all(buffer.is_meta for buffer in module.buffers())
    assert (small(genome, x, buffers=buffers) == before).all()


def test_memory_is_bounded(layers):
    """What goes is made again when it is asked for."""
    x = images(layers)
    tight, wide = FrozenParts(layers, limit=4000), FrozenParts(layers)
    for genome in networks(layers) * 2:
        expected = through(wide, genome, x)
        assert (through(tight, genome, x) == expected).all()
        assert tight._bytes <= 4000 or len(tight._modules) == 1
    assert len(tight._modules) < len(wide._modules)


def test_bfloat16(layers):
    x, frozen = images(layers), FrozenParts(layers, dtype=torch.bfloat16)
    for genome in networks(layers, 2):
        found, expected = through(frozen, genome, x), layers(genome, x).detach()
        assert found.dtype == torch.bfloat16
        error = (found.float() - expected).norm() / expected.norm()
        assert 1e-6 < error < 0.05


def test_graphs_write_where_nobody_reads_any_more(layers):
    """A whole tree of networks, whose parts share a buffer for each position and shape, once with
    prefixes that are kept and copied; the second time everything is a replay."""
    x = torch.randint(0, 256, (11, 3, 16, 16), dtype=torch.uint8)
    labels = torch.arange(11) % 3
    genomes = networks(layers)
    common = {"calibration": x, "normalise": lambda p: p.float() / 255 - 0.5, "chunk": 4}
    plain = PopulationScorer(FrozenParts(layers), x, labels, **common).scores(genomes)
    for memory in (0, 2**20):
        graphs = RerunParts(layers)
        scorer = PopulationScorer(graphs, x, labels, memory=memory, copies=True, **common)
        for _ in range(2):
            found = [score.score for score in scorer.scores(genomes)]
            assert found == pytest.approx([score.score for score in plain], rel=1e-6)
        shapes = {(path, shape) for path, shape, _ in graphs._buffers}
        assert len(graphs._buffers) == len(shapes) < len(graphs._graphs)


def test_a_part_is_recorded_once_for_each_input(layers):
    x, genome = images(layers), networks(layers)[0]
    graphs = RerunParts(layers)
    first = through(graphs, genome, x).clone()
    recorded = len(graphs._graphs)
    assert recorded == len(list(genome.parts()))
    assert (through(graphs, genome, x.clone()) == first).all()
    assert len(graphs._graphs) == recorded
    through(graphs, genome, x[:3].clone())
    assert len(graphs._graphs) == 2 * recorded


def test_parts_with_statistics_are_not_recorded(macro):
    x, graphs = images(macro), RerunParts(macro)
    genome = networks(macro, 1)[0]
    buffers = macro.calibrate(genome, [x])
    found = through(graphs, genome, x, buffers)
    expected = macro(genome, x, buffers=buffers).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not set(buffers) & {key[0].path for key in graphs._graphs}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs():
    supernet = Supernet(make_space(LAYERS), device="cuda")
    x = images(supernet).cuda()
    graphs = GraphedParts(supernet)
    for genome in networks(supernet) * 2:
        expected = supernet(genome, x).detach()
        torch.testing.assert_close(through(graphs, genome, x), expected, rtol=1e-4, atol=1e-5)


def test_with_kernels(layers):
    """Layers become their twins; what the parts compute stays the same."""
    pytest.importorskip("triton")
    x = images(layers, 2)
    plain, quick = FrozenParts(layers), FrozenParts(layers, kernels=True)
    changed = 0
    for genome in networks(layers, 2)[:3]:
        expected = through(plain, genome, x)
        torch.testing.assert_close(through(quick, genome, x), expected, rtol=1e-3, atol=1e-4)
        for placed in genome.parts():
            ours, theirs = quick.module(placed).modules(), plain.module(placed).modules()
            changed += sum(type(a) is not type(b) for a, b in zip(ours, theirs, strict=True))
    assert changed > 3
