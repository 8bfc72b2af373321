"""The style of the site's figures: lines that all can tell apart, in panels as wide as a phone."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from cycler import cycler
from IPython.display import HTML, display
from matplotlib import pyplot
from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, GREY = "#227AC2", "#D55E00", "#008047", "#832355", "#8A8A8A"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")
# Inches. A panel is as wide as the text on a phone, and so its letters stay as large as they are.
PANEL_WIDTH, PANEL_HEIGHT = 3.6, 2.7

STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=LINES, marker=MARKERS, markevery=[0.2] * len(COLOURS)),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "image.cmap": "cividis",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "savefig.transparent": True,
    "svg.hashsalt": "anygrpo",
}
mpl.rcParams.update(STYLE)


def panels(number: int = 1, *, height: float = PANEL_HEIGHT, sharey: bool = False) -> list[Axes]:
    """Axes to draw in, each in a figure of its own.

    Args:
        number: of panels.
        height: of each, in inches.
        sharey: whether they have one range of values.
    """
    axes = [pyplot.figure(figsize=(PANEL_WIDTH, height), layout="constrained").add_subplot() for _ in range(number)]
    for other in axes[1:] if sharey else ():
        other.sharey(axes[0])
    return axes


def show(axes: Sequence[Axes], *, alt: Sequence[str], caption: str) -> None:
    """Put the panels of one figure on the page.

    Args:
        axes: of each panel.
        alt: what is seen in each panel, for those who do not see it.
        caption: what the figure shows.
    """
    images = [image(own, text) for own, text in zip(axes, alt, strict=True)]
    content = f'<div class="panels">{"".join(images)}</div><figcaption>{html.escape(caption)}</figcaption>'
    display(HTML(f'<figure class="plot">{content}</figure>'))  # type: ignore[no-untyped-call]


def image(axes: Axes, alt: str) -> str:
    """A panel as an element of the page; its figure is closed."""
    figure = axes.get_figure()
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})  # type: ignore[union-attr]
    pyplot.close(figure)  # type: ignore[arg-type]
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'
