"""Curves of trainings, from the lines of JSON that benchmarks of trainings have written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import BLUE, ORANGE, panels, show

BENCHMARKS = Path(__file__).parents[1] / "tests" / "benchmarks"
PICTURE_HEIGHT = 2.0  # inches
STYLES = ((BLUE, "-"), (ORANGE, "--"))
Line = Mapping[str, Any]


def lines_of(name: str) -> list[Line]:
    """The trainings of ``tests/benchmarks/NAME.jsonl``."""
    return [json.loads(line) for line in (BENCHMARKS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def show_curves(panels_of: Mapping[str, Mapping[str, Sequence[Line]]], *, caption: str) -> None:
    """A panel for each title, with the curves of at most two kinds of training in each.

    Args:
        panels_of: title of each panel, and in it the trainings of each kind; one kind has one style in all panels.
        caption: what the figure shows.
    """
    kinds = [*dict.fromkeys(kind for trainings in panels_of.values() for kind in trainings)]
    axes, alt = panels(len(panels_of), height=PICTURE_HEIGHT), []
    for axis, (title, trainings) in zip(axes, panels_of.items(), strict=True):
        ends = []
        for kind, lines in trainings.items():
            colour, dash = STYLES[min(kinds.index(kind), 1)]
            for number, line in enumerate(lines):
                decisions, returns = zip(*line["curve"], strict=True)
                axis.plot(decisions, returns, color=colour, linestyle=dash, marker="", label="" if number else kind)
            if lines:
                last = [f"{line['curve'][-1][1]:.4g}" for line in lines]
                ends.append(f"{kind} ends at {', '.join(last)}")
        axis.set_title(title)
        axis.locator_params(axis="x", nbins=4)
        axis.xaxis.set_major_formatter(lambda decisions, _: f"{decisions / 1000:,.0f}k")
        axis.legend()
        alt.append(f"{title}, return of training episodes against decisions, a curve for each seed: {'; '.join(ends)}")
    show(axes, alt=alt, caption=caption)
