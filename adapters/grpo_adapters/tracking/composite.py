"""Several trackers as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from grpo_adapters.tracking.base import CheckedTracker
from grpo_adapters.tracking.interface import Cell, Tracker


class Trackers(CheckedTracker):
    """Logs to several trackers, and closes all of them. Without any it logs nowhere.

    If one fails, the others are served first, and then its error is raised; if several fail, the last error, with
    the others as its context.

    Args:
        trackers: any number of them.

    Raises:
        TypeError: if one is no :class:`Tracker`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = tempfile.TemporaryDirectory()
        >>> paths = [Path(folder.name, name) for name in ("metrics.jsonl", "copy.jsonl")]
        >>> from grpo_adapters.tracking import JSONLinesTracker
        >>> with Trackers(JSONLinesTracker(path) for path in paths) as trackers:
        ...     trackers.log({"reward": 0.5}, step=0)
        >>> [path.read_text().strip() for path in paths]
        ['{"step": 0, "reward": 0.5}', '{"step": 0, "reward": 0.5}']
        >>> folder.cleanup()
    """

    def __init__(self, trackers: Iterable[Tracker] = ()) -> None:
        self.trackers = list(trackers)
        for tracker in self.trackers:
            if isinstance(tracker, type) or not isinstance(tracker, Tracker):
                raise TypeError(
                    f"trackers holds {tracker!r}, expected Tracker objects: make them first, by "
                    f"grpo_adapters.tracking.make_tracker for instance"
                )

    def _log(self, metrics: dict[str, float], step: int) -> None:
        call_all([partial(tracker.log, metrics, step) for tracker in self.trackers])

    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None:
        call_all([partial(tracker.log_table, name, columns, rows, step) for tracker in self.trackers])

    def _finish(self, error: BaseException | None) -> None:
        if error is None:
            call_all([tracker.close for tracker in self.trackers])
        else:
            call_all([partial(tracker.__exit__, type(error), error, error.__traceback__) for tracker in self.trackers])


def call_all(calls: Sequence[Callable[[], object]]) -> None:
    """Make every call, whatever the others raise."""
    if calls:
        try:
            calls[0]()
        finally:
            call_all(calls[1:])
