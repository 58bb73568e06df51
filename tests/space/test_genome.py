"""Genomes: identity, JSON, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from space.downsampling.local import LocalDsm
from space.downsampling.strided_convolution import StridedConvolution
from space.genes import CATEGORIES, lookup, registered
from space.genome import Genome, Stage
from space.heads.pooled import PooledHead
from space.network import build
from space.operators.embedding import Embedding
from space.operators.inverted_bottleneck import InvertedBottleneck
from space.operators.modulation import Modulation
from space.presets import presets
from space.stems.convolution import ConvolutionStem


def example() -> Genome:
    return Genome(
        resolution=32,
        classes=10,
        stem=ConvolutionStem(channels=8),
        stages=(
            Stage(channels=12, blocks=(InvertedBottleneck(), InvertedBottleneck(context=5))),
            Stage(channels=16, stride=2, downsample=LocalDsm(), blocks=()),
            Stage(
                channels=20,
                stride=2,
                downsample=StridedConvolution(kernel=3),
                blocks=(Modulation(levels=3),),
            ),
        ),
        head=PooledHead(features=24),
    )


def test_digest_is_stable():
    """Digests name files and cache entries, so old runs are only found while they stay."""
    assert example().digest == "8e0edc22db70"


def test_digest_tells_networks_apart():
    genomes = [example(), *(found.genome for found in presets().values())]
    genomes += [example().at(resolution=64), example().at(classes=11)]
    assert len({genome.digest for genome in genomes}) == len(genomes)


@pytest.mark.parametrize("name", ["example", *presets()])
def test_json_round_trip(name):
    genome = example() if name == "example" else presets()[name].genome
    text = json.dumps(genome.to_json())
    again = Genome.from_json(json.loads(text))
    assert again == genome
    assert hash(again) == hash(genome)
    assert again.digest == genome.digest


def test_parts_in_the_order_of_the_network():
    genome = example()
    assert [placed.path for placed in genome.parts()] == [
        "stem",
        "stages.0.blocks.0",
        "stages.0.blocks.1",
        "stages.1.downsample",
        "stages.2.downsample",
        "stages.2.blocks.0",
        "head",
    ]
    widths = [(p.site.in_channels, p.site.channels) for p in genome.parts()]
    assert widths == [(3, 8), (8, 12), (12, 12), (12, 16), (16, 20), (20, 20), (20, 10)]
    assert [p.site.height for p in genome.parts()] == [32, 16, 16, 16, 8, 4, 4]


def test_paths_are_the_names_of_the_modules():
    network = build(example())
    for placed in example().parts():
        plan = placed.part.blueprint(placed.site)
        assert type(network.get_submodule(placed.path)) is plan.module
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in network.parameters()) == example().cost().params


def changed(**changes):
    """The example's JSON with values put at paths such as `stages.0.stride`."""
    data = json.loads(json.dumps(example().to_json()))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 31}, "resolution is 31, but must be a multiple of the stem's stride 2"),
        ({"resolution": "32"}, "resolution is '32', but must be a whole number of at least 1"),
        ({"classes": True}, "classes is True, but must be a whole number"),
        ({"format": 2}, "genome format 2 is unknown; this reads 1"),
        ({"head": ...}, "the genome lacks 'head'"),
        ({"stages": []}, "at least one stage"),
        ({"stages": {}}, "stages must be a list, not dict"),
        ({"stages": ["mlp"]}, "stage 0 must be an object, not str"),
        ({"stages__1__channels": ...}, "stage 1 lacks 'channels'"),
        ({"stages__1__channels": 0}, "stage 1: channels is 0, but must be a whole number"),
        ({"stages__1__downsample": None}, "stage 1: a stage of stride 2 needs a downsampling"),
        ({"stages__2__blocks": "x"}, "stage 2: blocks must be a list, not str"),
        ({"stages__2__blocks": [{"kind": "y"}]}, "stage 2: unknown operator 'y'; registered: "),
        ({"stem__step": 3}, "convolution: step is 3, but must be one of 1, 2, 4"),
        ({"stem__kind": "patch_embedding"}, "unknown stem 'patch_embedding'; registered: "),
    ],
)
def test_bad_genomes_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Genome.from_json(changed(**changes))


def test_a_genome_must_be_an_object():
    with pytest.raises(ValueError, match="a genome must be an object, not list"):
        Genome.from_json([])


def test_what_travels_beside_the_map_is_checked():
    tokens = Stage(channels=12, blocks=(InvertedBottleneck(), Embedding(tokens=1)))
    with pytest.raises(ValueError, match=r"stages.1.downsample: local_dsm takes map, but tokens"):
        example().at(stages=(tokens, *example().stages[1:]))


def test_an_empty_stage_is_refused():
    with pytest.raises(ValueError, match="needs a block or a downsampling module"):
        Stage(channels=8, blocks=())


def test_genomes_are_not_edited_in_place():
    genome = example()
    before = copy.deepcopy(genome)
    with pytest.raises(AttributeError):
        genome.resolution = 64
    assert genome.at(resolution=64).resolution == 64
    assert genome == before


def test_lookup_and_registered_agree():
    for category in CATEGORIES:
        for kind, part in registered(category).items():
            assert lookup(category, kind) is part
            assert (part.category, part.kind) == (category, kind)
