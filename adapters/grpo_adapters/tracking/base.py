"""What the trackers share.

They check what they are given, close once, and close themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Self

from grpo_adapters.tracking.checks import check_metrics, check_name, check_step, check_table
from grpo_adapters.tracking.interface import Cell


class CheckedTracker(ABC):
    """A :class:`Tracker` whose subclass is only asked to write what has been checked."""

    _reserved_names: ClassVar[frozenset[str]] = frozenset({"step"})
    """Names that no metric and no column may have."""
    _is_closed = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note numbers by name."""
        self._require_open()
        self._log(check_metrics(metrics, self._reserved_names), check_step(step))

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], step: int) -> None:
        """Note a table."""
        self._require_open()
        check_name(name, "table", self._reserved_names)
        self._log_table(name, *check_table(name, columns, rows, frozenset({"step"})), check_step(step))

    def close(self) -> None:
        """Write what is not yet written and let go of files and connections. To close again does nothing."""
        self._close_once(None)

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_once(error)

    def _close_once(self, error: BaseException | None) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._finish(error)

    def _require_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"this {type(self).__name__} is closed: log before close() or inside of the with block")

    @abstractmethod
    def _log(self, metrics: dict[str, float], step: int) -> None: ...

    @abstractmethod
    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None: ...

    @abstractmethod
    def _finish(self, error: BaseException | None) -> None:
        """Close; ``error`` is what ended the training, where something did."""
