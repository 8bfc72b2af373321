"""What a run has written, read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.toml_files import read_toml

CONFIG = "config.toml"
OF_LENGTH = {"until_steps", "until_decisions", "until_seconds", "stop_at"}
OF_LOOKING = {"checkpoint_every", "evaluate_every", "evaluation_episodes", "held_out", "samples_every", "trackers"}
IRRELEVANT = {"seed", "num_threads", *OF_LENGTH, *OF_LOOKING}
NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True)
class Record:
    """What the folder of a run holds.

    Attributes:
        folder: of the run.
        description: ``run.json``.
        config: ``config.toml``, of runs that the command has begun; else empty.
        metrics: a line for each step.
        evaluations: a line for each evaluation.
        times: a line for each step.
    """

    folder: Path
    description: Mapping[str, Any]
    config: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    times: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides on how the run learns, but for chance."""
        own = {"trainer": self.description.get("trainer"), **self.description["config"], **self.config}
        return {name: value for name, value in own.items() if name not in IRRELEVANT}


def read_record(folder: Path) -> Record:
    """What the folder of a run holds.

    Raises:
        UsageError: if it holds none, or what a run has not written.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no run: there is no {path}")
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(description, dict) or not isinstance(description.get("config"), dict):
        raise UsageError(f"{path} is not what a run writes there: expected a table with trainer, config and versions")
    config = read_toml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    lines = (read_lines(folder / f"{name}.jsonl") for name in ("metrics", "evaluations", "times"))
    return Record(folder, description, config, *lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that a run writes; none where it is not there. A last line that is not whole is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n")[:-1], start=1):
        try:
            lines.append(_with_numbers(json.loads(line)))
        except (ValueError, AttributeError) as error:
            raise UsageError(f"line {number} of {path} is not what a run writes there: {line[:60]}") from error
    return lines


def _with_numbers(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line with its numbers that are not finite, which are written as text."""
    return {name: NOT_FINITE.get(value, value) if isinstance(value, str) else value for name, value in line.items()}
