"""The drawing is well-formed, shows every part once, and tells operators apart."""

import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from results import drawing
from space.genes import lookup, registered
from space.genome import Genome, Stage

SVG = "{http://www.w3.org/2000/svg}"


def bottleneck(expansion=4, context=3, **genes):
    kind = lookup("operator", "inverted_bottleneck")
    return kind(expansion=expansion, context=context, **genes)


def genome(*stages, resolution=64):
    """A network of stages `(channels, blocks)`; a strided convolution stands before each but the
    first."""
    strided = lookup("downsampling", "strided_convolution")
    return Genome(
        resolution=resolution,
        classes=10,
        stem=lookup("stem", "convolution")(channels=16),
        stages=tuple(
            Stage(
                channels=channels,
                blocks=tuple(blocks),
                downsample=strided() if i else None,
                stride=2 if i else 1,
            )
            for i, (channels, blocks) in enumerate(stages)
        ),
        head=lookup("head", "pooled")(),
    )


@pytest.fixture
def network():
    same = [bottleneck()] * 3
    other = bottleneck(6, 5, squeeze_excite=True)
    attention = lookup("operator", "attention")()
    return genome((16, same), (32, [*same, other, *same]), (48, [attention]))


@pytest.fixture
def chains():
    """Blocks of two operators each, as in most published networks."""
    pair = [bottleneck(context=7), bottleneck(context=0)]
    return genome((16, pair * 3), (32, [*pair * 2, bottleneck()]))


def parse(svg):
    return ElementTree.fromstring(svg)


def texts(svg):
    return [element.text for element in parse(svg).iter(f"{SVG}text")]


def test_runs_cover_every_part_in_order(network):
    found = [placed for same in drawing.runs(network) for placed in same]
    assert found == list(network.parts())
    assert [len(same) for same in drawing.runs(network)] == [1, 3, 1, 3, 1, 3, 1, 1, 1]


def test_runs_do_not_cross_stages():
    plain = genome((16, [bottleneck()]), (16, [bottleneck()]))
    joined = Genome(
        resolution=64,
        stem=plain.stem,
        stages=tuple(Stage(channels=16, blocks=stage.blocks) for stage in plain.stages),
        head=plain.head,
    )
    assert [len(same) for same in drawing.runs(joined)] == [1, 1, 1, 1]


def test_blocks_that_repeat_together_stand_in_a_frame(chains):
    first, second = (stage.blocks[:2] for stage in chains.stages)
    found = [[[placed.part for placed in run] for run in p] for p in drawing.patterns(chains)]
    assert [pattern for pattern in found if len(pattern) > 1] == [
        [[first[0]] * 3, [first[1]] * 3],
        [[second[0]] * 2, [second[1]] * 2],
    ]
    flat = [placed for run in drawing.runs(chains) for placed in run]
    assert sorted(flat, key=lambda placed: placed.path) == sorted(
        chains.parts(), key=lambda placed: placed.path
    )
    svg = drawing.draw_svg(chains)
    frames = [box for box in parse(svg).iter(f"{SVG}rect") if box.get("stroke-dasharray")]
    assert [text for text in texts(svg) if text.startswith("×")] == ["×3", "×2"]
    for number, frame in enumerate(frames):
        top = float(frame.get("y"))
        bottom = top + float(frame.get("height"))
        inside = []
        for group in parse(svg).findall(f"{SVG}g"):
            for box in group.iter(f"{SVG}rect"):
                if top < float(box.get("y")) and float(box.get("y")) < bottom:
                    inside.append(group.find(f"{SVG}title").text.split(" ")[0])
        assert inside == [f"stages.{number}.blocks.{i}" for i in (0, 1)]


def test_an_operator_between_stages_is_drawn_as_what_changes_the_width():
    plain = genome((16, [bottleneck()]), (32, [bottleneck()]))
    stages = (plain.stages[0], replace(plain.stages[1], downsample=bottleneck(context=5)))
    root = parse(drawing.draw_svg(replace(plain, stages=stages)))
    (wedge,) = root.iter(f"{SVG}polygon")
    ends = [float(corner.split(",")[0]) for corner in wedge.get("points").split()]
    assert ends[1] - ends[0] < ends[2] - ends[3]  # from 16 channels to 32


def test_drawing_has_one_titled_group_for_each_run(network):
    root = parse(drawing.draw_svg(network))
    titles = [group.find(f"{SVG}title").text for group in root.findall(f"{SVG}g")]
    assert len(titles) == len(list(drawing.runs(network)))
    assert titles[0].startswith("stem: convolution (stem), 3 to 16 channels, 64 × 64 to 32 × 32")
    assert "stages.1.blocks.0 and 2 more: inverted bottleneck (operator)" in titles[3]
    assert "expansion=6" in titles[4]
    macs = [float(re.search(r"([\d,.]+) million MACs", title)[1]) for title in titles]
    # Each figure is rounded to 0.1 million.
    assert sum(macs) == pytest.approx(network.cost().macs / 1e6, abs=0.05 * len(macs) + 1e-9)


def test_drawing_labels(network):
    shown = texts(drawing.draw_svg(network))
    for expected in ("IB ×3", "IB", "At", "stage 3", "8 × 8", "48 ch", "↓ 2", "10"):
        assert expected in shown
    assert "expansion 6, context 5," in shown
    assert "squeeze excite" in shown


def test_drawing_scales_and_stays_inside(network):
    root = parse(drawing.draw_svg(network))
    _, _, width, height = map(float, root.get("viewBox").split())
    assert root.get("role") == "img"
    assert network.digest in root.get("aria-label")
    for box in root.iter(f"{SVG}rect"):
        left, top = float(box.get("x")), float(box.get("y"))
        assert 0 <= left < left + float(box.get("width")) <= width
        assert 0 <= top < top + float(box.get("height")) <= height
    assert all(float(text.get("y")) < height for text in root.iter(f"{SVG}text"))


def test_boxes_widen_with_channels():
    widths = []
    for channels in (16, 32, 64):
        svg = drawing.draw_svg(genome((16, [bottleneck()]), (channels, [bottleneck()]), (64, [])))
        groups = parse(svg).findall(f"{SVG}g")
        second = next(group for group in groups if "stages.1.blocks" in group[0].text)
        widths.append(float(second.find(f"{SVG}rect").get("width")))
    assert widths == sorted(set(widths))


def test_operators_text(network):
    assert drawing.operators(network.to_json()) == "IB×3 · IB×7 · At×1"
    stage = {"blocks": [{"kind": "token_mlp"}, {"kind": "token_mlp"}, {"kind": "of_theirs"}]}
    assert drawing.stage_operators(stage) == "TM×2+OT×1"
    pair = [{"kind": "token_mlp"}, {"kind": "of_theirs"}]
    alone = [{"kind": "modulation"}]
    assert drawing.stage_operators({"blocks": pair * 9 + alone}) == "(TM+OT)×9+Mo×1"
    assert drawing.operators({"stages": [{"blocks": []}, stage]}) == "– · TM×2+OT×1"


def test_gene_text():
    gene = bottleneck(6, 5, squeeze_excite=True, convolution="first", norm="batch")
    text = "expansion 6, context 5, convolution first, squeeze excite"
    assert drawing.gene_text(gene) == text
    assert drawing.gene_text(gene, full=True).startswith(
        "expansion=6, expansion_of=in, context=5, convolution=first, groups=0,"
    )
    assert "norm=batch" in drawing.gene_text(gene, full=True)
    head = lookup("head", "pooled")
    assert drawing.gene_text(head(bias=False)) == "no bias"
    assert drawing.gene_text(head(features=64, classifiers=2)) == "features 64, classifiers 2"
    assert drawing.gene_text(bottleneck(4, 0, layer_scale=1e-6)) == (
        "expansion 4, no context, layer scale 1e-06"
    )


def test_short_labels_are_distinct():
    kinds = ("global_attention", "gated_attention", "glued_attention", "convnext", "conv", "co")
    labels = drawing._distinct(kinds)
    assert set(labels) == set(kinds)
    assert len(set(labels.values())) == len(kinds)
    own = [drawing.short_label(kind) for kind in registered("operator")]
    assert len(set(own)) == len(own)
    assert drawing.short_label("inverted_bottleneck") == "IB"
    assert drawing.short_label("something_of_my_own") == "SOMO"


def test_colours_tell_the_shipped_operators_apart():
    kinds = ("inverted_bottleneck", "convolution", "attention", "axis_mlp", "token_mlp")
    for one, other in itertools.combinations((*kinds, "modulation"), 2):
        assert drawing.colour(one) != drawing.colour(other)
    assert drawing.colour("of_mine") in drawing.OTHERS
    assert drawing.colour("my_linear_attention") == drawing.colour("attention")


@pytest.mark.parametrize("kind", [*registered("operator"), *registered("downsampling"), "", "ñ"])
def test_every_kind_has_a_colour_and_a_label(kind):
    assert re.fullmatch("#[0-9a-f]{6}", drawing.colour(kind))
    assert drawing.short_label(kind) or not kind


@pytest.mark.parametrize(
    "fill",
    [getattr(drawing, name) for name in ("SKY", "BLUE", "GREEN", "YELLOW", "ORANGE", "GREY")]
    + [drawing.VERMILION, drawing.PURPLE],
)
def test_ink_is_readable_on_every_colour(fill):
    """Contrast of 4.5 : 1 (WCAG 2.2, success criterion 1.4.3)."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(fill), luminance(drawing.ink(fill))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
