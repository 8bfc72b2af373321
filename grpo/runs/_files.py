"""Files of JSON lines that a run writes as it goes on."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_FLUSHES = 1.0


class LinesFile:
    """A file with a line of JSON for each step, which a run that goes on takes up where its state was taken.

    JSON has no NaN and no infinity: they are written as texts, ``"NaN"`` and ``"-Infinity"``.

    Args:
        path: of the file, which is made with its first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._lines: list[Mapping[str, Any]] = []
        self._pending = bytearray()
        self._flushed = 0.0
        self._has_warned = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; it is in the file within a second, or with the next :meth:`flush`.

        Warns:
            UserWarning: once, if it cannot be written now; then it is written as soon as it can be.
        """
        self._lines.append(line)  # encoded many at a time, which is several times as fast as one by one
        now = time.monotonic()
        if now - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._flushed = now
            try:
                self.flush()
            except OSError as error:
                if not self._has_warned:
                    warnings.warn(f"{self.path} cannot be written ({error}): lines are kept in memory", stacklevel=2)
                self._has_warned = True

    def flush(self) -> None:
        """Let everything be in the file.

        Raises:
            OSError: if it cannot be written; what is left is written with the next call.
        """
        self._pending += b"".join(map(_encoded, self._lines))
        self._lines.clear()
        while self._pending:
            if self._file is None:
                self._file = FileIO(self.path, "ab")
            del self._pending[: self._file.write(self._pending)]

    def close(self) -> None:
        """Let everything be in the file, and let go of it; it is opened again by the next line.

        Raises:
            OSError: if it cannot be written.
        """
        try:
            self.flush()
        finally:
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
        self.require_length(length)
        self.close()
        if self.length > length:
            os.truncate(self.path, length)


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or as it was before."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _encoded(line: Mapping[str, Any]) -> bytes:
    text = json.dumps(line)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps({name: _json_value(value) for name, value in line.items()})
    return text.encode() + b"\n"


def _json_value(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
