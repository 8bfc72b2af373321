"""Metrics as JSON lines, which no library is needed to write."""

from __future__ import annotations

import json
import math
import mmap
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from grpo_adapters.tracking.base import CheckedTracker
from grpo_adapters.tracking.interface import Cell

BEGINNING = b'{"step": '


class JSONLinesTracker(CheckedTracker):
    """Writes a JSON object for every call of :meth:`log` to a line of a file, at once.

    A line holds the step and the metrics. A table has a file beside it, ``metrics.completions.jsonl`` for the table
    ``completions`` of ``metrics.jsonl``, and a line for every row. ``pandas.read_json(path, lines=True)`` reads either.
    JSON has no NaN and no infinity: they are written as the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which
    pandas takes for the numbers that they mean, as does ``float``.

    Args:
        path: of the file; folders on the way are made. It is made at once, that of a table with its first row.
        append: go on with the file of an earlier run. Steps that both have are there twice, the later ones below. A
            last line that was only half written, when the earlier run was killed, is removed.

    Raises:
        FileExistsError: if the file holds something and ``append`` is not set: a mix of two runs would look like one.
        ValueError: if ``append`` is set and the file is not one of a JSONLinesTracker.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> with JSONLinesTracker(f"{folder.name}/metrics.jsonl") as tracker:
        ...     tracker.log({"reward": 0.5, "rewards/format/mean": 1.0}, step=0)
        ...     tracker.log_table("completions", ("prompt", "completion", "reward"), [("2 + 2?", "4", 1.0)], step=0)
        >>> print(Path(folder.name, "metrics.jsonl").read_text(), end="")
        {"step": 0, "reward": 0.5, "rewards/format/mean": 1.0}
        >>> print(Path(folder.name, "metrics.completions.jsonl").read_text(), end="")
        {"step": 0, "prompt": "2 + 2?", "completion": "4", "reward": 1.0}
        >>> folder.cleanup()
    """

    def __init__(self, path: str | Path, *, append: bool = False) -> None:
        self.path = Path(path)
        self._append = append
        self._open_files = ExitStack()
        self._tables: dict[str, TextIO] = {}
        self._metrics = self._open(self.path)

    def _open(self, path: Path) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > 0:
            if not self._append:
                raise FileExistsError(
                    f"{path} holds the metrics of an earlier run: choose another path, or pass append=True to go on "
                    f"with that run"
                )
            _repair_end(path)
        return self._open_files.enter_context(path.open("a", encoding="utf-8", newline="\n"))

    def _log(self, metrics: dict[str, float], step: int) -> None:
        _write(self._metrics, [{"step": step, **{name: _json_value(value) for name, value in metrics.items()}}])

    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None:
        if name not in self._tables:
            table = f"{self.path.stem}.{quote(name, safe='')}{self.path.suffix}"
            self._tables[name] = self._open(self.path.with_name(table))
        lines = [
            {"step": step, **{column: _json_value(cell) for column, cell in zip(columns, row, strict=True)}}
            for row in rows
        ]
        _write(self._tables[name], lines)

    def _finish(self, error: BaseException | None) -> None:
        self._open_files.close()


def _write(file: TextIO, lines: list[dict[str, Cell]]) -> None:
    file.write("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    file.flush()


def _json_value(value: Cell) -> Cell:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _repair_end(path: Path) -> None:
    """Let the file end with a whole line."""
    with path.open("rb+") as file:
        if not BEGINNING.startswith(file.read(len(BEGINNING))):
            raise ValueError(f"{path} is not a file of a JSONLinesTracker, so nothing is appended: choose another path")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end, size = content.rfind(b"\n") + 1, len(content)
            last_line = content[end:]
        if end == size:
            return
        try:
            json.loads(last_line)
        except ValueError:
            file.truncate(end)
        else:
            file.seek(size)
            file.write(b"\n")
