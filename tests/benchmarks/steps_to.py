"""How many environment steps runs took to reach a return, read from the folders that they wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import tyro


@dataclass(frozen=True)
class Options:
    """Options of the table."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs."""
    bar: float
    """The return to be reached."""


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def steps_to(folder: Path, bar: float) -> int | None:
    """Environment steps before the first evaluation that reached the bar; None without one."""
    decisions = [0, *accumulate(int(line["num_decisions"]) for line in lines_of(folder / "metrics.jsonl"))]
    evaluations = lines_of(folder / "evaluations.jsonl")
    return next((decisions[line["step"]] for line in evaluations if line["evaluation/mean_return"] >= bar), None)


def main(options: Options) -> None:
    """Print a line for each run."""
    for folder in options.runs:
        steps = steps_to(folder, options.bar)
        print(f"{folder.name:14} {'never' if steps is None else format(steps, ',')}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
