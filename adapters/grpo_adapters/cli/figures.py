"""Figures of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from grpo_adapters.cli.records import Record

Axis = Literal["decisions", "steps", "seconds"]
Points = tuple[NDArray[np.float64], NDArray[np.float64]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito, which the colour-blind tell apart."""
OF_TRAINING = ("episode_return", "reward", "rewards/accuracies", "loss")
SMOOTHED_OVER = 50
GRID_POINTS = 400
MOST_DIFFERENCES = 2
TELLING = ("environment", "algorithm", "model", "target", "trainer")
NAMES = {"decisions": "decisions learnt from", "steps": "steps of the trainer", "seconds": "seconds of wall time"}


def draw(
    records: Sequence[Record],
    place: Path,
    *,
    metric: str | None = None,
    axis: Axis = "decisions",
    bar: float | None = None,
) -> list[Path]:
    """Draw the curves of runs into ``place.png`` and ``place.svg``.

    Args:
        records: of the runs; those of the same settings are drawn as one line with a band.
        place: of the files, without their endings.
        metric: what is drawn; None for the first metric of the evaluations, and for the reward of the training.
        axis: what lies on the horizontal axis.
        bar: value at which a line is drawn across.

    Returns:
        The files.

    Raises:
        ValueError: if no run has the metric.
    """
    groups = grouped(records)
    metrics = [metric] if metric is not None else _metrics_of(records)
    if not metrics or not any(_points(record, name, axis) for record in records for name in metrics):
        there = sorted(
            {name for record in records for line in (*record.metrics[:1], *record.evaluations[:1]) for name in line}
        )
        raise ValueError(
            f"no run has the metric {metric or 'reward'!r}; they have {', '.join(there) or 'no steps yet'}"
        )
    figure = Figure(figsize=(5.2 * len(metrics) + 0.4, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for (label, group), colour in zip(groups.items(), COLOURS * len(groups), strict=False):
            _draw_group(axes, group, name, axis, label, colour)
        _dress(axes, name, axis, bar)
    _explain(figure, groups, records)
    place.parent.mkdir(parents=True, exist_ok=True)
    paths = [place.with_name(f"{place.name}{ending}") for ending in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=160)
    return paths


def grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs of the same settings together, by what tells them from the others."""
    by_settings: dict[str, list[Record]] = {}
    for record in records:
        by_settings.setdefault(json.dumps(record.settings, sort_keys=True, default=str), []).append(record)
    together = list(by_settings.values())
    settings = [group[0].settings for group in together]
    names = sorted(set().union(*settings)) if settings else []
    differing = [name for name in names if len({json.dumps(each.get(name), default=str) for each in settings}) > 1]
    labels = [_label(group, each, differing) for group, each in zip(together, settings, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [str(group[0].folder) for group in together]
    return dict(zip(labels, together, strict=True))


def on_common_points(curves: Sequence[Points]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Curves as rows [n, P] over the points [P] at which all of them are, interpolated in between."""
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    own = np.unique(np.concatenate([x for x, _ in curves]))
    points = own[(own >= start) & (own <= end)]
    if len(points) > GRID_POINTS:
        points = np.linspace(start, end, GRID_POINTS)
    return points, np.stack([np.interp(points, x, y) for x, y in curves])


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over a window of a fiftieth of the curve around each value, narrower at its ends."""
    half = len(values) // (2 * SMOOTHED_OVER)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(half, np.minimum(places, len(values) - 1 - places))
    return np.asarray((sums[places + reach + 1] - sums[places - reach]) / (2 * reach + 1))


def _metrics_of(records: Sequence[Record]) -> list[str]:
    of_evaluations = next(
        ([name] for record in records for line in record.evaluations[:1] for name in line if name != "step"), []
    )
    lines = [line for record in records for line in record.metrics[-1:]]
    of_training = next(([name] for name in OF_TRAINING if any(name in line for line in lines)), [])
    return of_evaluations + of_training


def _label(group: Sequence[Record], settings: Mapping[str, Any], differing: Sequence[str]) -> str:
    """What tells the runs of a group from the others: the algorithm, say, else few settings, else their folders."""
    count = f", {len(group)} seeds" if len(group) > 1 else ""
    telling = [name for name in TELLING if name in differing][:1] or list(differing)
    if not differing:
        return _title(group) + count if len(group) > 1 else str(group[0].folder)
    if len(telling) > MOST_DIFFERENCES:
        return ", ".join(str(record.folder) for record in group[:2]) + (", ..." if len(group) > 2 else "")
    named = ", ".join(
        str(settings.get(name)) if name in TELLING else f"{name.replace('_', ' ')} {settings.get(name)}"
        for name in telling
    )
    return named + count


def _points(record: Record, metric: str, axis: Axis) -> Points | None:
    """Where a curve goes through; None where the run does not have it."""
    lines = [line for line in (*record.metrics, *record.evaluations) if metric in line]
    at = _places(record, axis)
    pairs = [(at[line["step"]], float(line[metric])) for line in lines if line["step"] in at]
    pairs = [pair for pair in pairs if np.isfinite(pair[1])]
    if not pairs:
        return None
    x, y = np.array(pairs, dtype=np.float64).T
    return x, y


def _places(record: Record, axis: Axis) -> dict[int, float]:
    """Where each step is on the horizontal axis."""
    places, decisions = {0: 0.0}, 0.0
    if axis == "seconds":
        return places | {line["step"]: line["seconds"] for line in record.times}
    for line in record.metrics:
        decisions += line.get("num_decisions", 0.0)
        places[line["step"]] = decisions if axis == "decisions" else float(line["step"])
    return places


def _draw_group(axes: Axes, group: Sequence[Record], metric: str, axis: Axis, label: str, colour: str) -> None:
    curves = [points for record in group if (points := _points(record, metric, axis)) is not None]
    if not curves:
        return
    is_evaluation = any(metric in line for record in group for line in record.evaluations[:1])
    if len(curves) == 1:
        x, y = curves[0]
        if is_evaluation:
            low, high = (_points(group[0], f"{metric}_{end}", axis) for end in ("low", "high"))
            if low is not None and high is not None:
                axes.fill_between(low[0], low[1], high[1], color=colour, alpha=0.18, linewidth=0)
        else:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        mean = y if is_evaluation else smoothed(y)
    else:
        x, rows = on_common_points(curves if is_evaluation else [(x, smoothed(y)) for x, y in curves])
        axes.fill_between(x, rows.min(0), rows.max(0), color=colour, alpha=0.18, linewidth=0)
        mean = rows.mean(0)
    marker = "o" if is_evaluation and len(x) <= 40 else None
    axes.plot(x, mean, color=colour, linewidth=1.8, marker=marker, markersize=3, label=label)


def _dress(axes: Axes, metric: str, axis: Axis, bar: float | None) -> None:
    if bar is not None:
        axes.axhline(bar, color="0.35", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            f"{bar:g}",
            (1.0, bar),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="0.35",
        )
    name, _, rest = metric.partition("/")
    told = (
        f"{rest} in evaluations".replace("_", " ")
        if name == "evaluation" and rest
        else f"{metric} in training".replace("_", " ")
    )
    axes.set_title(told, fontsize=10, loc="left")
    axes.set_xlabel(NAMES[axis], fontsize=9)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8, color="0.6")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    axes.margins(x=0.01)


def _explain(figure: Figure, groups: Mapping[str, Sequence[Record]], records: Sequence[Record]) -> None:
    """Title, legend, and what the bands are."""
    figure.suptitle(_title(records), fontsize=11, x=0.01, ha="left", fontweight="bold")
    kinds = {len(group) > 1 for group in groups.values()}
    notes = {
        True: "lowest to highest of several seeds",
        False: "95% interval of each evaluation of one seed",
    }
    note = f"bands: {', '.join(notes[kind] for kind in sorted(kinds, reverse=True))}"
    if len(groups) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False, fontsize=9)
    figure.text(0.995, 0.985, note, ha="right", va="top", fontsize=7.5, color="0.45")


def _title(records: Sequence[Record]) -> str:
    """What the runs have in common."""
    config = records[0].config
    what = {
        str(record.config.get("environment") or record.config.get("model") or record.config.get("target") or "")
        for record in records
    }
    algorithms = {str(record.config.get("algorithm", "")).upper() for record in records}
    parts = [next(iter(each)) for each in (what, algorithms) if len(each) == 1]
    title = ", ".join(Path(part).name if "/" in part else part for part in parts if part)
    return title or ("runs" if not config else "")
