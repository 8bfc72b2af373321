"""Tables and plots of what ``tests/benchmarks/record.py`` has written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import BLUE, GREY, ORANGE, panels, show
from IPython.display import Markdown, display
from matplotlib.axes import Axes

DATA = Path(__file__).parent / "measured" / "data"
BAR_HEIGHT, FRAME_HEIGHT = 0.3, 0.75  # inches


def load(name: str) -> dict[str, Any]:
    """All that is kept of a benchmark."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def figures_of(name: str) -> list[Any]:
    """What each run of a benchmark came to."""
    return [run["figures"] for run in load(name)["runs"]]


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of all runs of a benchmark, where each run has several."""
    return [row for rows in figures_of(name) for row in rows]


def source(*names: str, folder: str = "../measured") -> None:
    """Say when these benchmarks were measured, and where command and output stand.

    Args:
        names: of the benchmarks.
        folder: where ``docs/measured`` is, as seen from the page.
    """
    told = [f"[{load(name)['title']}]({folder}/raw/{name}.md), {load(name)['measured']}" for name in names]
    display(Markdown(f"Command and output: {'; '.join(told)}."))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Show a table, its first column at the left and numbers at the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    display(Markdown("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)))


def show_bars(
    groups: Mapping[str, Mapping[str, float]], *, unit: str, caption: str, reference: float | None = None
) -> None:
    """A panel of horizontal bars for each group.

    Args:
        groups: title of each panel, and in it the length of each bar.
        unit: what is counted, below each panel.
        caption: what the figure shows.
        reference: where a line stands, in each panel.
    """
    axes, alt = [panel_of(rows) for rows in groups.values()], []
    for axis, (title, bars) in zip(axes, groups.items(), strict=True):
        longest = max(*bars.values(), reference or 0)
        for at, value in enumerate(bars.values()):
            axis.barh(at, value, color=BLUE, height=0.7)
            place = {"color": "white", "ha": "right"} if value > longest / 4 else {"color": "black", "ha": "left"}
            axis.text(value, at, f" {short(value)} ", va="center", **place)
        if reference is not None:
            axis.axvline(reference, color=GREY, linestyle="--")
        name_rows(axis, bars)
        axis.set(title=title, xlabel=unit)
        alt.append(f"{title}, {unit}: " + ", ".join(f"{name} {short(value)}" for name, value in bars.items()))
    show(axes, alt=alt, caption=caption)


def show_seeds(groups: Mapping[str, Mapping[str, Sequence[float]]], *, unit: str, caption: str) -> None:
    """A panel for each group, with a row of points for each of its names, one for each seed."""
    axes, alt = [panel_of(rows) for rows in groups.values()], []
    for axis, (title, rows) in zip(axes, groups.items(), strict=True):
        for at, values in enumerate(rows.values()):
            axis.scatter(values, [at] * len(values), color=BLUE, alpha=0.6)
        name_rows(axis, rows)
        axis.set(title=title, xlabel=unit)
        told = (f"{name} {', '.join(short(value) for value in values)}" for name, values in rows.items())
        alt.append(f"{title}, {unit}, a point for each seed: {'; '.join(told)}")
    show(axes, alt=alt, caption=caption)


def show_changes(groups: Mapping[str, Mapping[str, tuple[float | None, float]]], *, unit: str, caption: str) -> None:
    """A panel for each group, with a line from before (orange square), where that is known, to after (blue point)."""
    axes, alt = [panel_of(rows) for rows in groups.values()], []
    for axis, (title, rows) in zip(axes, groups.items(), strict=True):
        for at, (before, after) in enumerate(rows.values()):
            if before is not None:
                axis.hlines(at, before, after, color=GREY)
                axis.scatter(before, at, marker="s", color=ORANGE)
            axis.scatter(after, at, marker="o", color=BLUE)
        name_rows(axis, rows)
        axis.set(title=title, xlabel=unit, xlim=(0, 105))
        told = (
            f"{name} {'' if before is None else f'{before:g} to '}{after:g}" for name, (before, after) in rows.items()
        )
        alt.append(f"{title}, {unit}, before and after: {'; '.join(told)}")
    show(axes, alt=alt, caption=caption)


def panel_of(rows: Mapping[str, Any]) -> Axes:
    """A panel as high as its rows ask for."""
    [axis] = panels(height=FRAME_HEIGHT + BAR_HEIGHT * len(rows))
    axis.locator_params(axis="x", nbins=5)
    return axis


def name_rows(axis: Axes, names: Iterable[str]) -> None:
    """Write the names beside rows from the top down."""
    names = list(names)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def short(value: float) -> str:
    """A figure with as many digits as matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
