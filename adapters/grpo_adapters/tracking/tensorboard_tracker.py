"""Metrics for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from grpo_adapters.tracking.base import CheckedTracker
from grpo_adapters.tracking.checks import step_in
from grpo_adapters.tracking.interface import Cell

ESCAPES = {ord(character): f"&#{ord(character)};" for character in "&<>|\\`*_~[]"} | {ord("\n"): "<br>"}


class TensorBoardTracker(CheckedTracker):
    """Writes event files for TensorBoard: metrics as scalars, tables as text.

    TensorBoard keeps numbers in single precision, and of each text the last few steps unless it is started with
    ``--samples_per_plugin text=1000``. Events of several runs in one folder are shown as one zigzag line: give each run
    a folder of its own.

    Args:
        folder: for the event files; ``tensorboard --logdir`` takes it or one above.

    Raises:
        ModuleNotFoundError: without ``pip install 'anygrpo[tensorboard]'``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, TensorBoardTracker(folder) as tracker:
        ...     tracker.log({"reward": 0.5}, step=1)
        ...     print([path.name.split(".")[0] for path in Path(folder).iterdir()], tracker.state_dict())
        ['events'] {'next_step': 2}
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TensorBoardTracker needs tensorboard: pip install 'anygrpo[tensorboard]'"
            ) from error
        self._make_writer = partial(SummaryWriter, str(folder))
        self._writer = self._make_writer()
        self._next_step = 0

    def state_dict(self) -> dict[str, Any]:
        """The step after the last one that was logged, ``next_step``."""
        return {"next_step": self._next_step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this tracker, or of an earlier run's in the same folder, returned.

        A new event file begins, and tells TensorBoard to leave out what earlier ones hold of later steps.

        Raises:
            ValueError: if it is no such state; nothing has changed then.
        """
        self._require_open()
        self._next_step = step_in(state_dict, "next_step", self)
        self._writer.close()
        self._writer = self._make_writer(purge_step=self._next_step)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._next_step = max(self._next_step, step + 1)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None:
        self._next_step = max(self._next_step, step + 1)
        self._writer.add_text(name, markdown_table(columns, rows), step)

    def _finish(self, error: BaseException | None) -> None:
        self._writer.close()


def markdown_table(columns: list[str], rows: list[list[Cell]]) -> str:
    """A table in Markdown, whose cells are shown as they are: what has a meaning in Markdown or HTML is escaped.

    Example:
        >>> print(markdown_table(["prompt", "reward"], [["a|b <think>", 0.5]]))
        | prompt | reward |
        | --- | --- |
        | a&#124;b &#60;think&#62; | 0.5 |
    """
    lines = [[escaped(column) for column in columns], ["---"] * len(columns)]
    lines += [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(cell: Cell) -> str:
    """The cell as text that fits into a line of a Markdown table."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return str(cell).replace("\r\n", "\n").replace("\r", "\n").translate(ESCAPES)
