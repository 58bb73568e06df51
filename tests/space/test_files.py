"""Space files: what they mean, and what is said where they are wrong."""

import copy
import json
import re

import jsonschema
import numpy as np
import pytest
import yaml

from space.files import FOLDER, load_space, make_space, read_definition, shipped_spaces

MINIMAL = {
    "name": "minimal",
    "resolution": [32],
    "stem": {"convolution": {"channels": [8]}},
    "stages": [
        {
            "channels": [8, 16],
            "depth": [1, 2],
            "stride": 2,
            "downsampling": ["local_dsm"],
            "operators": ["modulation"],
        }
    ],
    "head": {"pooled": {}},
}


def changed(path, value):
    """MINIMAL with another value at a path such as `stages.0.depth`; None removes the entry."""
    definition = copy.deepcopy(MINIMAL)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    target = definition
    for step in steps:
        target = target[step]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return definition


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces(name):
    space = load_space(name)
    assert space.name == name
    assert space.about
    assert space.size > 1
    assert space.proxy_resolution is None or space.proxy_resolution % space.total_stride == 0


OPERATORS = [
    "attention",
    "axis_mlp",
    "convolution",
    "global_context",
    "inverted_bottleneck",
    "learned_query",
    "modulation",
    "multi_path",
    "pooling_attention",
    "regional_mixing",
    "rep_mixer",
    "split_attention",
    "split_transformer",
    "token_mlp",
]
MODULES = [
    "global_dsm",
    "large_kernel",
    "local_dsm",
    "local_global_dsm",
    "pooled_projection",
    "space_to_depth",
    "strided_convolution",
]


def test_unified_has_every_operator_and_downsampling_module():
    stages = read_definition("unified")["stages"]
    for entry, wanted in (("operators", OPERATORS), ("downsampling", MODULES)):
        assert {kind for stage in stages for kind in stage[entry]} == set(wanted)
    assert load_space("unified").resolution.choices == (224,)


def test_the_schema_is_a_schema():
    schema = json.loads((FOLDER / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_file_and_its_data_are_the_same_space(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load_space(str(path)).variables == make_space(MINIMAL).variables
    assert read_definition(str(path)) == MINIMAL


def test_overrides_replace_entries():
    space = load_space("unified", resolution=[160, 192], classes=7)
    assert space.resolution.choices == (160, 192)
    assert space.classes == 7
    assert "resolution" in [variable.name for variable in space.variables]


def test_values_come_from_the_stage_over_the_space_over_the_part():
    definition = changed(
        "stages.0.operators", {"modulation": {"context": [3]}, "inverted_bottleneck": None}
    )
    definition["operators"] = {
        "modulation": {"context": [5, 7], "expansion": [2, 3]},
        "token_mlp": {"expansion": [1, 2]},  # of no stage
    }
    space = make_space(definition)
    names = {variable.name: variable.choices for variable in space.variables}
    assert names["stages.0.blocks.modulation.expansion"] == (2, 3)
    assert "stages.0.blocks.modulation.context" not in names
    assert not any("token_mlp" in name for name in names)
    blocks = {
        space.decode(row).stages[0].blocks[0]
        for row in space.sample_codes(np.random.default_rng(0), 100)
    }
    assert {block.context for block in blocks if block.kind == "modulation"} == {3}
    assert {block.expansion for block in blocks if block.kind == "inverted_bottleneck"} == {4}


def test_blocks_alike_or_free():
    alike, free = (make_space({**MINIMAL, "blocks": blocks}) for blocks in ("alike", "free"))
    assert alike.size == free.size == 4  # one operator with nothing to decide
    operators = {"modulation": {"context": [3, 5, 7]}}
    alike, free = (
        make_space({**changed("stages.0.operators", operators), "blocks": blocks})
        for blocks in ("alike", "free")
    )
    assert alike.size == 2 * 2 * 3
    assert free.size == 2 * (3 + 9)


WRONG = {
    "operator": ("stages.0.operators", ["mbconv"], "stages.0.operators: unknown operator 'mbconv'"),
    "module": ("stages.0.downsampling", ["x"], "stages.0.downsampling: unknown downsampling 'x'"),
    "stem": ("stem", {"x": {}}, "stem: unknown stem 'x'; registered: convolution"),
    "head": ("head", {"x": {}}, "head: unknown head 'x'; registered: mobileone, pooled, regional"),
    "gene": ("stages.0.operators", {"modulation": {"x": [1]}}, "unknown gene 'x'; its genes: gath"),
    "value": (
        "stages.0.operators",
        {"modulation": {"context": [4]}},
        "modulation: context is 4, but must be one of 3, 5, 7, 9, 11, 13",
    ),
    "bool": (
        "stages.0.operators",
        {"inverted_bottleneck": {"squeeze_excite": [0]}},
        "squeeze_excite is 0, but must be one of False, True",
    ),
    "range": (
        "stem",
        {"convolution": {"channels": [5000]}},
        "channels is 5000, but must be a whole number from 1 to 4096",
    ),
    "no name": ("name", None, "'name' is a required property"),
    "no head": ("head", None, "'head' is a required property"),
    "no stages": ("stages", [], "stages: []"),
    "no values": ("stages.0.operators", {"modulation": {"context": []}}, "stages.0.operators"),
    "no operators": ("stages.0.operators", [], "stages.0.operators: []"),
    "no kinds": ("stages.0.operators", {}, "stages.0.operators: {}"),
    "twice": ("stages.0.channels", [8, 8], "stages.0.channels: [8, 8]"),
    "negative": ("stages.0.depth", [-1, 1], "stages.0.depth.0: -1"),
    "fraction": ("stages.0.channels", [8.0], "stages.0.channels.0: 8.0 is not of type 'integer'"),
    "not a list": ("resolution", 32, "resolution: 32 is not of type 'array'"),
    "entry": ("widths", [1], "'widths' was unexpected"),
    "blocks": ("blocks", "mixed", "blocks: 'mixed' is not one of ['alike', 'free']"),
    "side": ("resolution", [30], "resolution 30 must be a multiple of the total stride, 4"),
    "proxy side": ("proxy", {"resolution": 6}, "resolution 6 must be a multiple of the total"),
    "proxy width": ("proxy", {"width": 0}, "proxy.width: 0"),
}


@pytest.mark.parametrize(("path", "value", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong(path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_space(changed(path, value))


def test_a_stage_may_be_its_downsampling_module_alone(tmp_path):
    """A depth of 0; without such a module there would be nothing that changes the width."""
    operators = {"modulation": {"context": [3, 5, 7]}}
    definition = changed("stages.0.operators", operators)
    definition["stages"][0]["depth"] = [0, 1, 2]
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(definition))
    space = load_space(str(path))
    assert space.size == 2 * (1 + 3 + 3)
    rows = np.unique(space.sample_codes(np.random.default_rng(0), 200), axis=0)
    genomes = {space.decode(row) for row in rows}
    assert len(genomes) == len(rows) == space.size
    assert {len(genome.stages[0].blocks) for genome in genomes} == {0, 1, 2}
    definition["stages"][0] |= {"stride": 1, "downsampling": None, "channels": [8]}
    path.write_text(yaml.safe_dump(definition))
    with pytest.raises(ValueError, match=r"stages\.0: depth may be 0, but must be at least 1"):
        load_space(str(path))


def test_operators_that_cannot_stand_at_a_door(tmp_path):
    """Without a downsampling module the first block must change the width."""

    def size(**changes):
        definition = changed("stages.0.downsampling", None)
        definition["stages"][0] |= {"stride": 1, **changes}
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump(definition))
        return load_space(str(path)).size

    with pytest.raises(ValueError, match=r"stages\.0 .* modulation keeps its width, but 8 "):
        size()
    with pytest.raises(ValueError, match="stride is 2, but must be 1 without a downsampling"):
        size(stride=2)
    assert size(channels=[8]) == 2
    assert size(operators=["inverted_bottleneck"]) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [1", "not valid YAML"), (b"- 1", "not list"), (b"\xff\xfe", "YAML"), (b"", "NoneType")],
)
def test_files_that_hold_no_mapping(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{message}"):
        read_definition(str(path))


def test_a_space_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no space 'nosuch'; .*unified"):
        read_definition("nosuch")
    with pytest.raises(ValueError, match="no space"):
        read_definition(str(tmp_path))
