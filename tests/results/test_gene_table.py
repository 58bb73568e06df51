import random

from results.gene_table import ABSENT, gene_columns


def part(kind, **genes):
    return {"kind": kind, **genes}


def genome(*stages, resolution=32, stem=8):
    return {
        "resolution": resolution,
        "stem": part("convolution", channels=stem),
        "stages": [
            {"channels": channels, "stride": 2, "downsample": down, "blocks": blocks}
            for channels, down, blocks in stages
        ],
        "head": part("pooled"),
    }


IB, AT = "inverted_bottleneck", "attention"


def test_only_what_differs_is_a_column():
    down = part("local_dsm")
    one = genome((16, None, [part(IB, expansion=2)]), (32, down, [part(AT, heads=2)] * 2))
    two = genome((24, None, [part(IB, expansion=2)]), (32, down, [part(AT, heads=2)] * 3))
    found = {gene.name: gene.values for gene in gene_columns([one, two])}
    assert found == {"stage 1 channels": (16, 24), "stage 2 depth": (2, 3)}
    # Both tell the same networks apart.
    assert [gene.name for gene in gene_columns([one, two], once=True)] == ["stage 1 channels"]
    three = genome((16, None, [part(IB, expansion=4)]), (32, down, [part(IB, expansion=2)]))
    found = {gene.name: gene.values for gene in gene_columns([one, two, three])}
    assert found["stage 2 blocks"] == ("attention", "attention", "inverted bottleneck")
    assert found["stage 2 depth"] == (2, 3, 1)
    assert "stage 2 blocks: attention heads" not in found  # it has one value wherever it stands


def test_blocks_that_differ_within_a_stage_have_columns_each():
    rng = random.Random(0)
    genomes = [
        genome(
            (16, None, [part(IB, expansion=rng.choice([2, 4])) for _ in range(rng.choice([1, 3]))])
        )
        for _ in range(30)
    ]
    genes = {gene.name: gene for gene in gene_columns(genomes)}
    third = genes["stage 1 block 3: inverted bottleneck expansion"]
    assert third.levels == (2, 4, ABSENT)
    assert third.ordered
    for value, found in zip(third.values, genomes, strict=True):
        blocks = found["stages"][0]["blocks"]
        assert value == (blocks[2]["expansion"] if len(blocks) == 3 else ABSENT)
    assert [third.levels[code] for code in third.codes] == list(third.values)


def test_numbers_words_and_flags_are_not_mixed_up():
    genomes = [
        genome((16, None, [part(IB, squeeze=value)]))
        for value in (1, True, 1.5, "one", [1, 2], None)
    ]
    (gene,) = gene_columns(genomes)
    assert len(gene.levels) == 6
    assert not gene.ordered
    assert sorted(gene.codes) == list(range(6))
    assert gene_columns([]) == []
