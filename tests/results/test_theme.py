import colorsys

import pytest

from results import theme


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out(colours):
    for one, other, least in theme.CONTRASTS:
        assert theme.contrast(colours[one], colours[other]) >= least, (one, other)


@pytest.mark.parametrize(
    ("series", "page"),
    [(theme.LIGHT_SERIES, theme.LIGHT["page"]), (theme.DARK_SERIES, theme.DARK["page"])],
)
def test_series_stand_out(series, page):
    assert all(theme.contrast(colour, page) >= 3 for colour in series)


# To the colours that dichromats see: Viénot, Brettel and Mollon, 1999, "Digital Video Colourmaps
# for Checking the Legibility of Displays by Dichromats", in linear RGB.
SEEN = {
    "protanopia": ((0.11238, 0.88762, 0), (0.11238, 0.88762, 0), (0.00401, -0.00401, 1)),
    "deuteranopia": ((0.29275, 0.70725, 0), (0.29275, 0.70725, 0), (-0.02234, 0.02234, 1)),
}


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize("series", [theme.LIGHT_SERIES, theme.DARK_SERIES])
def test_the_first_series_differ_for_colour_blind_eyes(series, eyes):
    """Two searches beside one another are the common case; shapes and dashes tell all apart."""

    def seen(colour):
        rgb = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
        mixed = [sum(a * b for a, b in zip(row, rgb, strict=True)) for row in SEEN[eyes]]
        return [max(0.0, value) ** (1 / 2.2) for value in mixed]

    one, other = (seen(colour) for colour in series[:2])
    assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 0.4


def test_contrast_is_that_of_the_standard():
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert theme.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert theme.contrast("#123456", "#123456") == 1


def test_css_has_every_colour_twice():
    css = theme.css()
    for name in theme.LIGHT:
        assert css.count(f"--{name}:") == 2
    assert set(theme.LIGHT) == set(theme.DARK)
    assert (
        colorsys.rgb_to_hls(*(int(theme.DARK["page"][i : i + 2], 16) / 255 for i in (1, 3, 5)))[1]
        < 0.2
    )
