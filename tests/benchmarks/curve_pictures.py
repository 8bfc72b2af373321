"""Small pictures of curves side by side, of returns against decisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = 3


def pictures(names: Sequence[str], *, height: float, sharey: bool = False) -> tuple[Any, dict[str, Any]]:
    """A figure so high, in inches, and in it axes for each name."""
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from matplotlib import pyplot

    rows = -(-len(names) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, squeeze=False, sharey=sharey, figsize=(10, height))
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    named = dict(zip(names, axes.flat, strict=False))
    for name, axis in named.items():
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.locator_params(axis="x", nbins=4)
        axis.xaxis.set_major_formatter(lambda decisions, _: f"{decisions / 1000:,.0f}k")
    return figure, named


def save(figure: Any, path: Path, salt: str) -> None:
    """Write a figure, the same file each time; ``salt`` is that of the names in it."""
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = salt
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
