"""The command that draws the curves of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from grpo_adapters.cli.arguments import parse
from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.figures import Axis, draw
from grpo_adapters.cli.options import explained
from grpo_adapters.cli.records import read_record


@explained
class PlotOptions(BaseModel, frozen=True, extra="forbid"):
    """Draw the curves of runs. Those of the same settings but for the seed are one line, their mean, with a band.

    Attributes:
        folders: of the runs.
        metric: of steps or of evaluations; None for the evaluation, and for the reward of the training.
        x: what lies on the horizontal axis.
        bar: value at which a line is drawn across.
        output: files to write, without their endings .png and .svg; None for curves in the folder, if it is only one,
            or else here.
    """

    folders: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER [FOLDER ...]")]]
    metric: str | None = None
    x: Axis = "decisions"
    bar: float | None = None
    output: Path | None = None


def plot(words: Sequence[str]) -> int:
    """Draw; the exit status."""
    asked = parse(PlotOptions, words, command="plot", given={"folders": ()})
    if not asked.folders:
        raise UsageError("say which runs to draw: anygrpo plot FOLDER...")
    records = [read_record(folder) for folder in asked.folders]
    place = asked.output or (asked.folders[0] if len(asked.folders) == 1 else Path()) / "curves"
    with as_usage_errors():
        figures = draw(records, place, metric=asked.metric, axis=asked.x, bar=asked.bar)
    Console().print(Text("\n".join(map(str, figures))), soft_wrap=True)
    return 0
