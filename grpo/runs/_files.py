"""Files of JSON lines that a run writes as it goes on."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

SECONDS_BETWEEN_FLUSHES = 1.0


class LinesFile:
    """A file with a line of JSON for each step, which a run that goes on takes up where its state was taken.

    JSON has no NaN and no infinity: they are written as texts, ``"NaN"`` and ``"-Infinity"``.

    Args:
        path: of the file, which is made with its first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._flushed = 0.0

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is in the file within a second, or with the next :meth:`flush`."""
        if self._file is None:
            self._file = self.path.open("ab")
        text = json.dumps(line)
        if "NaN" in text or "Infinity" in text:
            text = json.dumps({name: _json_value(value) for name, value in line.items()})
        self._file.write(text.encode() + b"\n")
        now = time.monotonic()
        if now - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._file.flush()
            self._flushed = now

    def flush(self) -> None:
        """Let everything be in the file."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Let go of the file; it is opened again by the next line."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def length(self) -> int:
        """Bytes so far."""
        self.flush()
        return self.path.stat().st_size if self.path.exists() else 0

    def require_length(self, length: int) -> None:
        """Raise a ValueError if the file is shorter than that."""
        size = self.length
        if size < length:
            raise ValueError(
                f"{self.path} has {size} bytes, but had {length} when the run was saved: put the file of that run back"
            )

    def go_on_from(self, length: int) -> None:
        """Remove what was written after the file had this length.

        Raises:
            ValueError: if the file is shorter.
        """
        self.close()
        self.require_length(length)
        if self.length > length:
            os.truncate(self.path, length)


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or as it was before."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _json_value(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
