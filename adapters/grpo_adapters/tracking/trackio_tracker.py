"""Metrics for Trackio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_adapters.tracking.base import CheckedTracker
from grpo_adapters.tracking.checks import check_run
from grpo_adapters.tracking.interface import Cell


class TrackioTracker(CheckedTracker):
    """Logs to a run of Trackio: metrics as its logs, tables as ``trackio.Table``.

    Trackio keeps the runs of all projects in one folder: the one that ``TRACKIO_DIR`` names when trackio is first
    imported, one in Hugging Face's cache without it. ``trackio show`` shows them. Where it cannot write, Trackio warns
    and goes on.

    Args:
        project: of the run.
        name: of the run; None for one that is made up.
        config: settings to show with the run.
        options: anything else for ``trackio.init``: ``space_id`` to log to a Space, ``group``, ``resume``,
            ``auto_log_gpu`` and ``auto_log_cpu`` to leave out what it measures of the machine.

    Raises:
        ModuleNotFoundError: without ``pip install 'anygrpo[trackio]'``.
    """

    _reserved_names = CheckedTracker._reserved_names | {"project", "run", "timestamp", "time", "metrics"}

    def __init__(
        self,
        project: str,
        name: str | None = None,
        config: Mapping[str, object] | None = None,
        **options: Any,
    ) -> None:
        try:
            import trackio
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("TrackioTracker needs trackio: pip install 'anygrpo[trackio]'") from error
        self._make_table = trackio.Table
        self._run: Any = trackio.init(
            project=project,
            name=name,
            config=None if config is None else dict(config),
            **{"embed": False, **options},  # in a notebook it would start a server to show itself
        )

    def state_dict(self) -> dict[str, Any]:
        """The name of the ``run``."""
        return {"run": self._run.name}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this tracker, or of one of the same run, returned.

        What that run has of later steps stays, since Trackio takes nothing back: it will be there twice.

        Raises:
            ValueError: if it is the state of another run.
        """
        self._require_open()
        run = state_dict.get("run") if isinstance(state_dict, Mapping) else None
        check_run(state_dict, self._run.name, self, f"name={run!r}, resume='must'")

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None:
        self._run.log({name: self._make_table(columns=columns, data=rows)}, step=step)

    def _finish(self, error: BaseException | None) -> None:
        self._run.finish()
