"""A candidate of the supernet is the network that its genome builds, with part of the weights."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from trainings import LAYERED, layered

from space.cost_table import CostTable
from space.files import load_space, make_space
from space.network import build
from supernet.network import Supernet, check_side, positions

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def genomes(space, count, seed=0):
    """Random ones, and the two ends of the space."""
    rows = space.sample_codes(np.random.default_rng(seed), count)
    table = CostTable(space)
    ends = [table.extreme("params", largest=largest) for largest in (True, False)]
    return list(dict.fromkeys(space.decode(row) for row in [*ends, *rows]))


def compare(supernet, genome, images):
    """The logits of a candidate and of the network that stands alone."""
    buffers = supernet.calibrate(genome, [images])
    network = build(genome).eval()
    network.load_state_dict(supernet.state_of(genome, buffers))
    with torch.no_grad():
        found, expected = supernet(genome, images, buffers=buffers), network(images)
    assert found.isfinite().all()
    assert found.std() > 0
    torch.testing.assert_close(found, expected, **CLOSE)


# ---- the same as the network that stands alone


def test_every_part_alone_and_in_the_supernet(host_space, random_weights, host):
    """Each operator and downsampling module, at several settings and widths."""
    space = host_space(host)
    supernet = random_weights(Supernet(space))
    images = torch.randn(3, 3, 16, 16)
    for genome in genomes(space, 24):
        compare(supernet, genome, images)


@pytest.fixture(scope="module")
def unified():
    space = load_space("unified").scaled(width=0.125, resolution=32, classes=10)
    return Supernet(space, seed=0)


def test_random_networks_of_the_unified_space(unified, random_weights):
    supernet = random_weights(unified)
    images = torch.randn(2, 3, 32, 32)
    for genome in genomes(supernet.space, 18):
        compare(supernet, genome, images)


def test_the_largest_network_uses_whole_weights(host_space, random_weights, host):
    """Nothing is cut where the candidate is as large as the supernet."""
    space = host_space(host)
    supernet = random_weights(Supernet(space))
    genome = genomes(space, 0)[0]
    whole = 0
    for placed in genome.parts():
        for name, (full, cut) in supernet.prepare(placed).cuts.items():
            if not cut.steps:
                whole += 1
                assert cut(supernet.weights[full]) is supernet.weights[full], name
    assert whole > 0


def test_weights_of_narrow_networks_lie_in_those_of_wide_ones(small_space, random_weights):
    """Leading channels: what a candidate takes is the start of the shared weight."""
    supernet = random_weights(Supernet(small_space))
    for genome in genomes(small_space, 20):
        state = supernet.state_of(genome)
        stem = supernet.weights["stem.convolution.0.weight"]
        channels = genome.stem.channels
        assert torch.equal(state["stem.0.weight"], stem[:channels])
        classifier = supernet.weights["head.pooled.classifier.weight"]
        width = genome.head.features or genome.stages[-1].channels
        assert torch.equal(state["head.classifier.weight"], classifier[:, :width])


def test_a_candidate_is_not_changed_by_others(small_space):
    """Parts are prepared once and shared: what ran before must not matter."""
    supernet, images = Supernet(small_space), torch.randn(4, 3, 8, 8)
    chosen = genomes(small_space, 12)
    for genome in [*chosen, *reversed(chosen)]:
        fresh = Supernet(small_space)
        buffers, expected = (s.calibrate(genome, [images]) for s in (supernet, fresh))
        with torch.no_grad():
            found = supernet(genome, images, buffers=buffers)
            assert torch.equal(found, fresh(genome, images, buffers=expected))
        supernet(genome, images, training=True)  # leaves nothing behind


# ---- gradients


def test_every_weight_gets_a_gradient(host_space, random_weights, host):
    space = host_space(host)
    supernet = random_weights(Supernet(space))
    seen = set()
    for genome in genomes(space, 100):
        used = supernet.used_by(genome)
        if used <= seen:
            continue
        loss = supernet(genome, torch.randn(4, 3, 16, 16), training=True).square().sum()
        loss.backward()
        for name, weight in supernet.weights.items():
            if weight.grad is not None and weight.grad.abs().max() > 0:
                assert name in used
                seen.add(name)
            weight.grad = None
        if seen == set(supernet.weights):
            break
    assert seen == set(supernet.weights)


def test_gradients_are_those_of_the_network_alone(small_space, random_weights):
    """Each lands in its part of the shared weight, the rest stays zero."""
    supernet, images = random_weights(Supernet(small_space)), torch.randn(4, 3, 8, 8)
    for genome in genomes(small_space, 10):
        supernet(genome, images, training=True).square().sum().backward()
        network = build(genome).train()
        network.load_state_dict(supernet.state_of(genome), strict=False)
        network(images).square().sum().backward()
        parameters = dict(network.named_parameters())
        total = {}
        for placed in genome.parts():
            for name, (full, cut) in supernet.prepare(placed).cuts.items():
                grad = parameters[f"{placed.path}.{name}"].grad
                scale = grad.abs().max().item() + 1e-3
                torch.testing.assert_close(
                    cut(supernet.weights[full].grad), grad, atol=1e-5 * scale, rtol=1e-4
                )
                total[full] = grad.abs().sum()
        for name, weight in supernet.weights.items():
            if weight.grad is None:
                assert name not in total
            else:
                torch.testing.assert_close(
                    weight.grad.abs().sum(), total[name], rtol=1e-4, atol=1e-4
                )
            weight.grad = None


# ---- weights


def test_the_seed_decides_the_weights(small_space):
    before = torch.get_rng_state()
    same, other = (Supernet(small_space, seed=seed).weights for seed in (3, 4))
    again = Supernet(small_space, seed=3).weights
    assert all(torch.equal(weight, again[name]) for name, weight in same.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in same.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_start_as_those_of_the_networks(unified):
    """Constants as they are; random ones with about the same deviation where they are taken whole
    (how a convolution starts depends on its inputs). Fresh weights: another test has changed those
    of the fixture."""
    supernet = Supernet(unified.space, seed=1)
    genome = genomes(unified.space, 0)[0]
    torch.manual_seed(1)
    fresh = build(genome).state_dict()
    whole = {
        f"{placed.path}.{name}"
        for placed in genome.parts()
        for name, (_, cut) in supernet.prepare(placed).cuts.items()
        if not cut.steps
    }
    for name, weight in supernet.state_of(genome).items():
        expected = fresh[name]
        if expected.min() == expected.max():
            assert torch.equal(weight, expected), name
        elif weight.numel() > 500 and name in whole:
            assert weight.std() == pytest.approx(expected.std().item(), rel=0.25), name


def test_load_takes_weights_of_the_same_supernet_only(small_space):
    source, target = (Supernet(small_space, seed=seed) for seed in (0, 1))
    kept = {name: weight.detach().clone() for name, weight in source.weights.items()}
    target.load(kept)
    assert all(torch.equal(weight, kept[name]) for name, weight in target.weights.items())
    name = next(iter(kept))
    with pytest.raises(ValueError, match=f"'{name}' differs"):
        target.load({key: weight for key, weight in kept.items() if key != name})
    with pytest.raises(ValueError, match="'foo' differs"):
        target.load({**kept, "foo": torch.zeros(1)})
    with pytest.raises(ValueError, match=f"'{name}' has shape .*must have"):
        target.load({**kept, name: kept[name][:1]})


def test_positions_name_every_place(unified):
    """Those of the deepest network, each with the sites of all networks."""
    space = unified.space
    sites = {path: set(found) for path, _, found in positions(space)}
    deepest = set()
    for genome in genomes(space, 100):
        for placed in genome.parts():
            assert placed.site in sites[placed.path]
            deepest.add(placed.path)
    assert deepest == set(sites)


# ---- what lies outside


def test_a_network_outside_the_supernet(unified):
    space = unified.space
    genome = genomes(space, 0)[1]
    image = torch.randn(1, 3, 32, 32)
    wide = load_space("unified").scaled(width=0.5, resolution=32, classes=10)
    with pytest.raises(ValueError, match="outside the supernet of 'unified at width"):
        unified(genomes(wide, 0)[0], image)
    with pytest.raises(ValueError, match=r"head.*outside the supernet"):
        unified(genome.at(classes=11), image)


def test_an_operator_that_the_supernet_lacks(host_space, hosts, small_space):
    other = next(host for host in hosts() if host.kind == "token_mlp")
    supernet, genome = Supernet(small_space), genomes(host_space(other), 0)[0]
    with pytest.raises(ValueError, match=r"outside the supernet of 'small'"):
        supernet(genome, torch.randn(1, 3, 16, 16))


# ---- running statistics


def with_batch_norm(space):
    for genome in genomes(space, 50):
        if any(getattr(block, "norm", "") == "batch" for s in genome.stages for block in s.blocks):
            return genome
    raise AssertionError("no network has BatchNorm")


def test_statistics_are_those_of_a_plain_network(small_space):
    """In training mode over the same batches, with the plain mean over them."""
    supernet, genome = Supernet(small_space), with_batch_norm(small_space)
    batches = [2 + 3 * torch.randn(6, 3, 8, 8) for _ in range(3)]
    buffers = supernet.calibrate(genome, iter(batches))
    network = build(genome)
    network.load_state_dict(supernet.state_of(genome), strict=False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        for images in batches:
            network.train()(images)
    expected = dict(network.named_buffers())
    found = {
        f"{path}.{name}": value for path, held in buffers.items() for name, value in held.items()
    }
    assert set(found) == set(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], **CLOSE)
    assert {name.rpartition(".")[2] for name in found} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_statistics_must_be_there(small_space):
    supernet, genome = Supernet(small_space), with_batch_norm(small_space)
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"blocks\.0 has running statistics: calibrate"):
        supernet(genome, images)
    supernet(genome, images, training=True)
    buffers = supernet.calibrate(genome, [images])
    kept = {path: {k: v.clone() for k, v in held.items()} for path, held in buffers.items()}
    supernet(genome, torch.randn(2, 3, 8, 8), buffers=buffers)
    for path, held in kept.items():
        assert all(torch.equal(buffers[path][name], value) for name, value in held.items())


def test_networks_without_batch_norm_have_no_statistics(unified):
    def never():
        raise AssertionError("no image is needed")
        yield

    assert unified.calibrate(genomes(unified.space, 0)[1], never()) == {}


# ---- branches

SLOT = "stages.0.blocks"


def network_with(space, option, *, position=0, seed=0):
    """One with `option` in the first stage; "-" for none."""
    slot = space.stages[0].block(position)
    for genome in genomes(space, 400, seed):
        blocks = genome.stages[0].blocks
        found = "-" if len(blocks) <= position else slot.option_of(blocks[position])
        if found == option:
            return genome
    raise AssertionError(option)


@pytest.fixture
def splitting(random_weights):
    return random_weights(Supernet(layered(), split_at=(SLOT,)))


OPTIONS = ("narrow", "wide", "modulation", "-")  # the stage may have no blocks


def test_a_split_changes_no_network(splitting):
    images = torch.randn(2, 3, 16, 16)
    chosen = genomes(layered(), 30)
    with torch.no_grad():
        before = [splitting(genome, images) for genome in chosen]
        names = set(splitting.weights)
        became = splitting.split()
        after = [splitting(genome, images) for genome in chosen]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert splitting.is_split
    assert set(became) == names
    assert all(len(parts) == splitting.branches == len(OPTIONS) for parts in became.values())
    assert {part for parts in became.values() for part in parts} == set(splitting.weights)
    assert splitting.split() == {}  # once only


def test_networks_of_different_branches_share_nothing(splitting):
    images = torch.randn(2, 3, 16, 16)
    networks = {option: network_with(layered(), option) for option in OPTIONS}
    used = {option: splitting.used_by(genome) for option, genome in networks.items()}
    assert set.intersection(*used.values())  # before
    splitting.split()
    used = {option: splitting.used_by(genome) for option, genome in networks.items()}
    for one, other in combinations(OPTIONS, 2):
        assert not used[one] & used[other]
    again = splitting.used_by(network_with(layered(), "wide", seed=7))
    assert again & used["wide"]
    assert all(name.startswith("wide/") for name in again)
    splitting(networks["wide"], images, training=True).square().sum().backward()
    moved = {name for name, weight in splitting.weights.items() if weight.grad is not None}
    assert moved == used["wide"]
    with torch.no_grad():
        kept = splitting(networks["narrow"], images)
        for name in used["wide"]:
            splitting.weights[name].mul_(1.5)
        assert torch.equal(splitting(networks["narrow"], images), kept)


def test_a_branch_is_a_supernet_of_its_own(splitting):
    """`state_of`, `calibrate` and `load` take the weights of the network's branch."""
    splitting.split()
    with torch.no_grad():
        for place, name in enumerate(splitting.weights):
            splitting.weights[name].add_(0.01 * (place % 7))
    for option in OPTIONS:
        compare(splitting, network_with(layered(), option), torch.randn(2, 3, 16, 16))
    other = Supernet(layered(), seed=5, split_at=(SLOT,))
    other.load({name: weight.detach() for name, weight in splitting.weights.items()})
    assert other.is_split
    assert all(torch.equal(w, splitting.weights[name]) for name, w in other.weights.items())


def test_a_split_at_two_slots(random_weights):
    supernet = random_weights(Supernet(layered(), split_at=(SLOT, "stages.1.blocks")))
    assert supernet.branches == 4 * 2
    supernet.split()
    branches = {supernet.branch_of(genome) for genome in genomes(layered(), 300)}
    assert branches == {f"{a}+{b}/" for a in OPTIONS for b in ("wide", "modulation")}
    images = torch.randn(2, 3, 16, 16)
    for genome in genomes(layered(), 10):
        compare(supernet, genome, images)


def test_without_slots_nothing_splits():
    supernet = Supernet(layered())
    names = set(supernet.weights)
    assert supernet.split() == {}
    assert supernet.branches == 1
    assert not supernet.is_split
    assert set(supernet.weights) == names


def test_slots_that_cannot_be_split_at():
    known = r"stages\.0\.blocks, stages\.1\.blocks"
    for name in ("stages.0.downsample", "stages.0.blocks.0", "nosuch"):
        with pytest.raises(ValueError, match=f"split_at names '{name}'.*several options: {known}$"):
            Supernet(layered(), split_at=(name,))


def test_options_of_one_kind_have_weights_of_their_own(random_weights):
    """`narrow` and `wide` are both inverted bottlenecks."""
    space = layered()
    supernet = random_weights(Supernet(space, pooled=False))
    narrow, wide = (
        {
            n
            for n in supernet.used_by(network_with(space, option))
            if n.startswith("stages.0.blocks")
        }
        for option in ("narrow", "wide")
    )
    assert narrow
    assert wide
    assert not narrow & wide
    assert {name.split(".")[4] for name in narrow | wide} == {"narrow", "wide"}


def test_pools_are_shared_unless_they_are_not():
    """Kinds of one place share what `Part.pools` names."""
    operators = {kind: {"layer_scale": [0.1]} for kind in ("modulation", "token_mlp")}
    stage = {**LAYERED["stages"][0], "operators": operators, "depth": [1]}
    space = make_space({**LAYERED, "stages": [stage]})
    for pooled in (True, False):
        supernet = Supernet(space, pooled=pooled)
        one, other = (supernet.used_by(network_with(space, kind)) for kind in operators)
        shared = {name.split(".")[4] for name in one & other if ".blocks." in name}
        assert bool(shared) == pooled
        assert not shared & set(operators)


# ---- memory


def test_parts_that_are_computed_twice_give_the_same(small_space, random_weights):
    """With BatchNorm and with equal parts in a row, whose module is shared."""
    plain, again = (random_weights(Supernet(small_space)) for _ in range(2))
    again.checkpointing = True
    images = torch.randn(4, 3, 8, 8)
    for genome in genomes(small_space, 12):
        outputs = []
        for supernet in (plain, again):
            outputs.append(supernet(genome, images, training=True))
            outputs[-1].square().sum().backward()
        assert torch.equal(*outputs)
    for name, weight in plain.weights.items():
        if weight.grad is not None:
            torch.testing.assert_close(again.weights[name].grad, weight.grad)


# ---- image sizes


def test_sides_at_which_all_networks_work(unified):
    for side in (18, 24, 32):
        check_side(unified.space, side)
        for genome in genomes(unified.space, 6):
            smaller = dataclasses.replace(genome, resolution=side)
            with torch.no_grad():
                logits = unified(smaller, torch.randn(2, 3, side, side), training=True)
            assert logits.isfinite().all()
    with pytest.raises(ValueError, match=r"stages\.\d\.blocks\.0 cannot be at 14 pixels: "):
        check_side(unified.space, 14)
