"""Members of a family cost what was asked for, can be built, and keep the design."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from space.budget import Budget
from space.genes import lookup
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.network import build
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.presets import preset
from space.scaling import ALPHA, BETA, GAMMA, TOLERANCE, scale
from space.stems.convolution import ConvolutionStem

TARGETS = ("1GFLOPs", "2GFLOPs", "4GFLOPs", "9GFLOPs")
# A pyramid, its blocks led by a downsampling operator, pairs of operators, class tokens, windows
# that shift in turn, columns of fixed proportions, and a chain of three operators.
NETWORKS = (
    "convnext_t",
    "coatnet_0",
    "moganet_s",
    "deit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "revcol_t",
    "cmt_s",
)


def traced(genome):
    """Parameters and MACs of the network itself."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build(genome).eval().requires_grad_(False)
        logits = network(torch.empty(1, 3, genome.resolution, genome.resolution))
    assert logits.shape == (1, genome.classes)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


# ---- members


@pytest.mark.parametrize("name", NETWORKS)
def test_members_cost_what_was_asked_for_and_can_be_built(name):
    genome = preset(name).genome
    for text in TARGETS:
        member = scale(genome, Budget.parse(text))
        params, macs = traced(member.genome)
        assert (params, macs) == (member.cost.params, member.cost.macs)
        assert abs(macs / member.target.limit - 1) <= TOLERANCE, text
        assert member.genome.resolution % 32 == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_members_grow_along_the_rule(name):
    genome = preset(name).genome
    own = genome.cost().macs
    small, large = (scale(genome, Budget(macs=own * k // 4)).genome for k in (1, 16))
    assert small.resolution < genome.resolution < large.resolution
    for a, b, c in zip(small.stages, genome.stages, large.stages, strict=True):
        assert a.channels <= b.channels <= c.channels
        assert len(a.blocks) <= len(b.blocks) <= len(c.blocks)
    assert sum(len(stage.blocks) for stage in small.stages) < sum(
        len(stage.blocks) for stage in large.stages
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_size_of_the_network_itself_gives_the_network(name):
    genome = preset(name).genome
    cost = genome.cost()
    assert scale(genome, Budget(macs=cost.macs)).genome == genome
    assert scale(genome, Budget(params=cost.params)).genome == genome


def test_sizes_are_those_of_the_rule_up_to_rounding():
    genome = preset("convnext_t").genome
    member = scale(genome, Budget(macs=2 * genome.cost().macs))
    assert member.phi == pytest.approx(1, abs=0.5)
    assert member.genome.resolution == pytest.approx(224 * GAMMA**member.phi, abs=32)
    for stage, was in zip(member.genome.stages, genome.stages, strict=True):
        assert stage.channels == pytest.approx(was.channels * BETA**member.phi, rel=0.1)
        assert len(stage.blocks) == pytest.approx(len(was.blocks) * ALPHA**member.phi, abs=1)
        assert stage.channels % 8 == 0


def test_budgets_of_parameters():
    genome = preset("convnext_t").genome
    for text in ("5Mparams", "60Mparams"):
        member = scale(genome, Budget.parse(text))
        assert abs(traced(member.genome)[0] / member.target.limit - 1) <= TOLERANCE


# ---- what stays


def kinds(stage):
    """What a stage begins with, and its operators, without the sizes of their windows."""
    parts = [stage.downsample] if stage.downsample is not None else []
    return [
        (part.kind, getattr(part, "region", None), getattr(part, "shift", None))
        for part in [*parts, *stage.blocks]
    ]


@pytest.mark.parametrize(
    ("name", "stage", "before", "period", "behind"),
    [
        ("maxvit_t", 1, 0, 3, 0),  # the downsampling operator is the first of the first round
        ("cmt_s", 2, 2, 3, 1),  # a downsampling module and a position table; one part behind
        ("moganet_s", 2, 1, 2, 1),
        ("swin_small_patch4_window7_224", 2, 1, 2, 0),
    ],
)
def test_stages_keep_their_pattern(name, stage, before, period, behind):
    """Rounds of several operators are added and left out as wholes."""
    genome = preset(name).genome
    published = kinds(genome.stages[stage])
    unit = published[before : before + period]
    for factor in (0.25, 4):
        member = scale(genome, Budget(macs=round(factor * genome.cost().macs)))
        chain = kinds(member.genome.stages[stage])
        rounds, left = divmod(len(chain) - before - behind, period)
        assert left == 0
        assert len(chain) != len(published)
        assert chain[:before] == published[:before]
        assert chain[before : len(chain) - behind] == unit * rounds
        assert chain[len(chain) - behind :] == published[len(published) - behind :]


def test_what_stands_alone_stays_alone():
    """Class tokens and their table are there once, whatever the size."""
    genome = preset("deit_tiny_patch16_224").genome
    embeddings = [p for p in genome.parts() if p.part.kind == "embedding"]
    assert len(embeddings) == 1
    member = scale(genome, Budget(macs=4 * genome.cost().macs))
    assert [p.part for p in member.genome.parts() if p.part.kind == "embedding"] == [
        placed.part for placed in embeddings
    ]
    assert len(member.genome.stages[0].blocks) > len(genome.stages[0].blocks)


def test_heads_keep_their_size():
    genome = preset("deit_small_patch16_224").genome
    for factor in (0.5, 2, 4):
        member = scale(genome, Budget(macs=round(factor * genome.cost().macs)))
        attention = next(p for p in member.genome.parts() if p.part.kind == "attention")
        heads = attention.part.heads_at(attention.site.channels)
        assert heads.count * heads.width == attention.site.channels
        assert heads.width == 64


def test_windows_keep_their_number():
    genome = preset("swin_tiny_patch4_window7_224").genome
    member = scale(genome, Budget(macs=4 * genome.cost().macs))
    assert member.genome.resolution > 224
    for placed in member.genome.parts():
        if placed.part.kind == "attention":
            assert placed.site.height % placed.part.context == 0
            assert placed.part.context == member.genome.resolution // 32


def test_stem_head_and_equal_stages_follow():
    genome = Genome(
        resolution=64,
        stem=ConvolutionStem(channels=16),
        stages=(
            Stage(channels=16, blocks=(InvertedBottleneck(),) * 2),
            Stage(channels=16, blocks=(InvertedBottleneck(expansion=2),) * 2),
            Stage(
                channels=32,
                blocks=(InvertedBottleneck(),) * 2,
                downsample=lookup("downsampling", "strided_convolution")(),
                stride=2,
            ),
        ),
        head=PooledHead(features=128),
    )
    member = scale(genome, Budget(macs=16 * genome.cost().macs)).genome
    first, second, third = member.stages
    assert 16 < member.stem.channels == first.channels == second.channels
    assert member.head.features == 2 * round(128 * third.channels / 32 / 2)


# ---- what cannot be


def test_what_stands_in_the_way_is_said():
    """One block of one width with one head, at a resolution of its own: nothing comes near."""
    lonely = Genome(
        resolution=4096,
        stem=ConvolutionStem(channels=8),
        stages=(Stage(channels=8, blocks=(InvertedBottleneck(expansion=1),)),),
        head=PooledHead(),
    )
    with pytest.raises(ValueError, match=r"within 2% of 1kFLOPs; the nearest has .* MACs"):
        scale(lonely, Budget.parse("1kFLOPs"))


def test_ratio_of_the_rule():
    """Equation 3 of EfficientNet: MACs about double with each phi."""
    assert pytest.approx(2, rel=0.05) == ALPHA * BETA**2 * GAMMA**2
