"""What a tracker is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

from typing_extensions import Protocol, runtime_checkable

Cell: TypeAlias = str | float | bool | None
"""What a cell of a table may hold: text, a number, a truth value, or nothing."""


@runtime_checkable
class Tracker(Protocol):
    """Notes metrics and tables of a training, step by step. As a context manager it closes itself."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note numbers by name, such as those that ``trainer.step`` returns.

        Args:
            metrics: numbers by name. A name may hold slashes, ``"rewards/format/mean"``, which most viewers group by.
            step: of the training, at least 0. Several calls may share a step; do not go back to an earlier one.

        Raises:
            TypeError: if a name is no text, a value no number, or the step no integer.
            ValueError: if a name is reserved, the step is negative, or the tracker is closed.
        """
        ...

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], step: int) -> None:
        """Note a table, of completions for instance.

        Args:
            name: of the table. Tables of one name at several steps belong together.
            columns: names of the columns, such as ``("prompt", "completion", "reward")``.
            rows: a cell for each column.
            step: of the training, as in :meth:`log`.

        Raises:
            TypeError: if a name is no text, a cell neither text nor number, or the step no integer.
            ValueError: if a column is named twice, a row has more or fewer cells than there are columns, the step is
                negative, or the tracker is closed.
        """
        ...

    def close(self) -> None:
        """Write what is not yet written and let go of files and connections. To close again does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
