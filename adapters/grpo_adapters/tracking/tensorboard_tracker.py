"""Metrics for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from grpo_adapters.tracking.base import CheckedTracker
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
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "TensorBoardTracker needs tensorboard: pip install 'anygrpo[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder))

    def _log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None:
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
