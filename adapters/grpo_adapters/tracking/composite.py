"""Several trackers as one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from grpo import Stateful
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

    def state_dict(self) -> dict[str, Any]:
        """The states of those trackers that are :class:`grpo.Stateful`, by their place."""
        return {"trackers": {place: copy.deepcopy(tracker.state_dict()) for place, tracker in self._stateful().items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this object, or of one made of trackers of the same kinds, returned.

        Raises:
            ValueError: if it is the state of other trackers. Where one of several does not take its state, those
                before it have.
        """
        self._require_open()
        stateful = self._stateful()
        told = state_dict.get("trackers") if isinstance(state_dict, Mapping) else None
        if not isinstance(told, Mapping) or told.keys() != stateful.keys():
            raise ValueError(
                f"Trackers.load_state_dict was given {state_dict!r:.200}, expected the states of trackers "
                f"{sorted(stateful)}: pass what state_dict() of one made of trackers of the same kinds returned"
            )
        for place, tracker in stateful.items():
            tracker.load_state_dict(copy.deepcopy(told[place]))

    def _stateful(self) -> dict[str, Stateful]:
        return {str(place): tracker for place, tracker in enumerate(self.trackers) if isinstance(tracker, Stateful)}

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
