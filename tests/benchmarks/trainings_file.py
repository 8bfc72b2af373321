"""Trainings that were made, a line of JSON each, so that none is made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainingsFile:
    """A file with a line for each training.

    Attributes:
        path: of the file, which need not be there.
    """

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """The trainings so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a training of which all this is true."""
        return any(line.items() >= key.items() for line in self.lines())

    def add(self, line: Mapping[str, Any]) -> None:
        """Note a training."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line)) + "\n")
