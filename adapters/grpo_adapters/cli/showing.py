"""The command that shows a run in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import tyro
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_adapters.cli.arguments import parse
from grpo_adapters.cli.options import explained
from grpo_adapters.cli.records import Record, read_record
from grpo_adapters.progress import sparkline

CURVE_WIDTH = 14


@explained
class ShowOptions(BaseModel, frozen=True, extra="forbid"):
    """Show what a run is made of, how it goes, and what its time went into.

    Attributes:
        folder: of the run.
    """

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]]


def show(words: Sequence[str]) -> int:
    """Show a run; the exit status."""
    record = read_record(parse(ShowOptions, words, command="show", required=("folder",)).folder)
    console = Console()
    console.print(_settings(record))
    console.print(_metrics(record))
    for line in (_times(record), _kept(record)):
        if line:
            console.print(Text(line), soft_wrap=True)
    return 0


def _settings(record: Record) -> Table:
    """What the run was begun with, two settings a row, without those that are none."""
    settings = dict(record.config) or {"trainer": record.description["trainer"], **record.description["config"]}
    told = [(name, _told(value)) for name, value in settings.items() if value not in (None, [], ())]
    table = Table(title=f"{record.folder}: settings", title_justify="left", show_header=False, box=None, pad_edge=False)
    half = (len(told) + 1) // 2
    for left, right in zip_longest(told[:half], told[half:], fillvalue=("", "")):
        table.add_row(Text(left[0], style="dim"), left[1], Text(right[0], style="dim"), right[1])
    for column in table.columns[::2]:
        column.no_wrap = True
    return table


def _told(value: Any) -> str:
    if isinstance(value, Mapping) and value.keys() == {"start", "end", "num_steps"}:
        return f"{value['start']} to {value['end']} in {value['num_steps']:,} steps"
    return str(value)


def _metrics(record: Record) -> Table:
    """Range and last value of each metric that has ever changed, with its curve."""
    steps = record.metrics[-1]["step"] if record.metrics else 0
    table = Table(title=f"after {steps:,} steps", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("metric", "lowest", "highest", "last"):
        table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True)
    table.add_column("curve", no_wrap=True)
    constant = []
    for lines in (record.evaluations, record.metrics):
        for name in sorted({name for line in lines for name in line} - {"step"}):
            values = [float(line[name]) for line in lines if name in line]
            if len(set(values)) == 1:
                constant.append(f"{name} {values[0]:.4g}")
                continue
            numbers = (f"{number:.3g}" for number in (min(values), max(values), values[-1]))
            table.add_row(name, *numbers, Text(sparkline(_means(values)), style="cyan"))
    if constant:
        table.caption = f"always the same: {', '.join(constant)}"
        table.caption_justify = "left"
    return table


def _means(values: Sequence[float]) -> list[float]:
    """Means over equal parts, as many as a curve has room for."""
    count = min(CURVE_WIDTH, len(values))
    bounds = [len(values) * place // count for place in range(count + 1)]
    return [fmean(values[start:end]) for start, end in pairwise(bounds)]


def _times(record: Record) -> str:
    """What the time went into."""
    if not record.times:
        return ""
    total = float(record.times[-1]["seconds"])
    phases: Counter[str] = Counter()
    for line in record.times:
        phases.update({name: value for name, value in line.items() if name not in ("step", "seconds")})
    shares = [f"{name} {seconds / total:.0%}" for name, seconds in phases.items()]
    other = max(0.0, total - sum(phases.values()))
    return f"{total:,.1f} s: {', '.join([*shares, f'evaluations, checkpoints, callbacks {other / total:.0%}'])}"


def _kept(record: Record) -> str:
    """What of the run is kept."""
    checkpoints = sorted(path.name for path in (record.folder / "checkpoints").glob("step-*"))
    kept = [f"checkpoints/{name}" for name in checkpoints]
    kept += [f"{name}/" for name in ("best", "model", "tracking") if (record.folder / name).is_dir()]
    return f"kept: {', '.join(kept)}" if kept else ""
