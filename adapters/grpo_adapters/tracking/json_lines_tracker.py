"""Metrics as JSON lines, which no library is needed to write."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO
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
        append: go on with the file of an earlier run. Steps that both have are there twice, the later ones below,
            unless :meth:`load_state_dict` takes back what came after a checkpoint, as :class:`grpo.Track` has it do
            where a run is resumed. A last line that was only half written, when the earlier run was killed, is removed.

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
        self._files: dict[str, TextIO] = {}
        self._loaded: dict[str, int] | None = None
        self._metrics = self._file(self.path.name)

    def state_dict(self) -> dict[str, Any]:
        """How far the files have been written: ``lengths`` in bytes, by name."""
        written = {name: self.path.with_name(name).stat().st_size for name in self._files}
        return {"lengths": (self._loaded or {}) | written}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this tracker, or of an earlier run's, returned: later lines are removed.

        A tracker that goes on with an earlier run's file is made with ``append=True``.

        Raises:
            ValueError: if a file is shorter than it was, or is another; nothing is removed then.
        """
        self._require_open()
        self._loaded = self._checked_lengths(state_dict)
        for name in self._loaded.keys() | self._files.keys():
            path = self.path.with_name(name)
            if path.exists():  # a copy of the run may lack empty files
                os.truncate(path, self._loaded.get(name, 0))

    def _checked_lengths(self, state_dict: Any) -> dict[str, int]:
        """The lengths in a state, at which a line of each file ends."""
        lengths = state_dict.get("lengths") if isinstance(state_dict, Mapping) else None
        if not isinstance(lengths, Mapping) or self.path.name not in lengths:
            raise ValueError(
                f"JSONLinesTracker.load_state_dict was given {state_dict!r:.200}, expected the lengths of "
                f"{self.path.name} and of its tables: pass what state_dict() of a tracker of that file returned"
            )
        for name, length in lengths.items():
            if name != self.path.name and (Path(name).name != name or not name.startswith(f"{self.path.stem}.")):
                raise ValueError(f"JSONLinesTracker.load_state_dict was given {name!r}, no table of {self.path.name}")
            _require_line_end(self.path.with_name(name), length)
        return dict(lengths)

    def _file(self, name: str) -> TextIO:
        """The file of that name beside the metrics, opened once."""
        if name not in self._files:
            self._files[name] = self._open(self.path.with_name(name))
        return self._files[name]

    def _open(self, path: Path) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > 0:
            if not self._append:
                raise FileExistsError(
                    f"{path} holds the metrics of an earlier run: choose another path, or pass append=True to go on "
                    f"with that run"
                )
            _repair_end(path)
            if self._loaded is not None and path.name not in self._loaded:
                os.truncate(path, 0)  # a table that was begun after the state was taken
        return self._open_files.enter_context(path.open("a", encoding="utf-8", newline="\n"))

    def _log(self, metrics: dict[str, float], step: int) -> None:
        _write(self._metrics, [{"step": step, **{name: _json_value(value) for name, value in metrics.items()}}])

    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None:
        file = self._file(f"{self.path.stem}.{quote(name, safe='')}{self.path.suffix}")
        lines = [
            {"step": step, **{column: _json_value(cell) for column, cell in zip(columns, row, strict=True)}}
            for row in rows
        ]
        _write(file, lines)

    def _finish(self, error: BaseException | None) -> None:
        self._open_files.close()


def _require_line_end(path: Path, length: int) -> None:
    """A file must be one of a JSONLinesTracker, of which a line ends at that length."""
    size = path.stat().st_size if path.exists() else 0
    if size < length:
        raise ValueError(
            f"{path} has {size} bytes, but had {length} when the state was taken: put the file of that run back, or "
            f"do without its state"
        )
    if length > 0:
        with path.open("rb") as file:
            beginning = file.read(len(BEGINNING))
            file.seek(length - 1)
            if beginning != BEGINNING or file.read(1) != b"\n":
                raise ValueError(
                    f"{path} is not the file that the state was taken of: no line of a JSONLinesTracker ends at byte "
                    f"{length}"
                )


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
