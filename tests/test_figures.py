"""The figures of the site can be read by those who see few colours, by night, and by those who see nothing."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from figures import COLOURS, LINES, MARKERS, STYLE, panels, show
from matplotlib import pyplot
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DARK_BACKGROUND = "#131416"  # of the site's theme

# Machado, Oliveira & Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency":
# the matrices for severity 1, which act on linear RGB.
SIGHT = {
    "of most": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
# A difference of 2.3 in CIELAB is just noticed between large patches that touch. Thin lines lie apart, and need several
# times as much: this is more than eight times.
LEAST_DIFFERENCE = 20.0
LEAST_CONTRAST = 3.0  # of what must be seen to understand a picture: WCAG 2.2, 1.4.11


def from_hex(colour: str) -> Array:
    """sRGB in [0, 1], [3]."""
    return np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])


def linear(colour: Array) -> Array:
    """sRGB to linear RGB."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def lab(colour: Array) -> Array:
    """Linear RGB to CIELAB, white as D65."""
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    ratio = to_xyz @ colour.clip(0, 1) / to_xyz.sum(1)
    x, y, z = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one: Array, other: Array, sight: Array) -> float:
    """Distance of two colours in CIELAB as they are seen."""
    return float(np.linalg.norm(lab(sight @ linear(one)) - lab(sight @ linear(other))))


def contrast(one: Array, other: Array) -> float:
    """That of WCAG, from 1 to 21."""
    dark, light = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def as_in_dark_mode(colour: Array) -> Array:
    """What ``filter: invert(1) hue-rotate(180deg)`` makes of it, by the matrix of Filter Effects for 180 degrees."""
    grey = np.array([0.213, 0.715, 0.072])
    return ((2 * grey - np.eye(3)) @ (1 - colour)).clip(0, 1)


MODES = {"light": lambda colour: colour, "dark": as_in_dark_mode}


def test_the_formulas_give_known_values() -> None:
    white, black = from_hex("#FFFFFF"), from_hex("#000000")
    np.testing.assert_allclose(lab(linear(from_hex("#FF0000"))), [53.24, 80.09, 67.20], atol=0.02)
    assert contrast(white, black) == pytest.approx(21)
    np.testing.assert_allclose(as_in_dark_mode(white), black, atol=1e-9)
    np.testing.assert_allclose(as_in_dark_mode(from_hex("#808080")), 1 - from_hex("#808080"), atol=1e-9)
    np.testing.assert_allclose(as_in_dark_mode(from_hex("#FF0000")), [1.0, 1.0 - 0.426, 1.0 - 0.426], atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sight", SIGHT)
def test_every_two_colours_are_told_apart(sight: str, mode: str) -> None:
    seen = {colour: MODES[mode](from_hex(colour)) for colour in COLOURS}
    for one, other in itertools.combinations(COLOURS, 2):
        assert difference(seen[one], seen[other], SIGHT[sight]) >= LEAST_DIFFERENCE, (one, other)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_stands_out_from_the_page(colour: str) -> None:
    assert contrast(from_hex(colour), from_hex("#FFFFFF")) >= LEAST_CONTRAST
    assert contrast(as_in_dark_mode(from_hex(colour)), from_hex(DARK_BACKGROUND)) >= LEAST_CONTRAST


def test_lines_differ_without_their_colours_too() -> None:
    styles = list(STYLE["axes.prop_cycle"])
    assert [style["color"] for style in styles] == list(COLOURS)
    for key, values in (("linestyle", LINES), ("marker", MARKERS)):
        assert len(set(values)) == len(styles) == len({style[key] for style in styles})


def test_the_dark_mode_of_the_site_is_the_one_computed_here() -> None:
    assert "filter: invert(1) hue-rotate(180deg);" in (ROOT / "docs" / "_static" / "site.css").read_text()


@pytest.mark.parametrize("alt", [[], ["one text", "and one too many"]])
def test_each_panel_needs_a_text(alt: list[str]) -> None:
    axes = panels(1)
    with pytest.raises(ValueError, match=r"argument 2 is (shorter|longer)"):
        show(axes, alt=alt, caption="A figure.")
    pyplot.close("all")


def test_what_is_shown_has_text_and_caption(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("figures.display", lambda element: shown.append(element.data))
    show(panels(2), alt=["a < b", "two"], caption='What "is" seen')
    assert re.findall('<img alt="(.*?)"', shown[0]) == ["a &lt; b", "two"]
    assert "<figcaption>What &quot;is&quot; seen</figcaption>" in shown[0]
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_draws_by_the_style_of_the_site(page: Path) -> None:
    """By ``panels`` and ``show``, which ask for a text and a caption."""
    assert not re.findall(r"pyplot|\bplt\.", page.read_text())
