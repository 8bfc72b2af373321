"""Metrics for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from grpo_adapters.tracking.base import CheckedTracker
from grpo_adapters.tracking.checks import check_run, step_in
from grpo_adapters.tracking.interface import Cell


class WandbTracker(CheckedTracker):
    """Logs to a run of its own of Weights & Biases: metrics as its history, tables as ``wandb.Table``.

    Steps must not go back: Weights & Biases would drop what is logged to an earlier one. If an exception leaves the
    with block, the run is marked as failed.

    Args:
        project: of the run.
        name: of the run; None for one that is made up.
        config: settings to show with the run.
        mode: ``"online"``; ``"offline"`` writes files only, which ``wandb sync`` sends later, and from then on is the
            mode of the whole process; ``"disabled"`` does nothing. None for what ``WANDB_MODE`` says, online without.
        folder: for its files, in ``folder/wandb``; None for ``WANDB_DIR``, the current directory without it.
        options: anything else for ``wandb.init``: ``entity``, ``group``, ``tags``, ``id`` and ``resume``. With
            ``reinit="return_previous"`` the tracker uses, and closes, the run that the script has started itself.

    Raises:
        ModuleNotFoundError: without ``pip install 'anygrpo[wandb]'``.
    """

    _reserved_names = CheckedTracker._reserved_names | {"_step", "_runtime", "_timestamp"}

    def __init__(
        self,
        project: str,
        name: str | None = None,
        config: Mapping[str, object] | None = None,
        mode: Literal["online", "offline", "disabled", "shared"] | None = None,
        folder: str | Path | None = None,
        **options: Any,
    ) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("WandbTracker needs wandb: pip install 'anygrpo[wandb]'") from error
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        if mode == "offline":  # without this, wandb looks for its server to report how it is used
            wandb.setup(wandb.Settings(mode="offline"))
        self._make_table = wandb.Table
        self._run = wandb.init(
            project=project,
            name=name,
            config=None if config is None else dict(config),
            mode=mode,
            dir=folder,
            **{"reinit": "create_new", **options},
        )
        self._last_step = self._logged_step = self._run.step

    def state_dict(self) -> dict[str, Any]:
        """The id of the ``run``, and its ``last_step``."""
        return {"run": self._run.id, "last_step": self._last_step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this tracker, or of one of the same run, returned.

        What that run has of later steps stays, since Weights & Biases takes nothing back: until they are over nothing
        is sent.

        Raises:
            ValueError: if it is the state of another run; nothing has changed then.
        """
        self._require_open()
        run = state_dict.get("run") if isinstance(state_dict, Mapping) else None
        check_run(state_dict, self._run.id, self, f"id={run!r}, resume='must'")
        self._last_step = step_in(state_dict, "last_step", self)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        if self._is_new(step):
            self._run.log(metrics, step=step)

    def _log_table(self, name: str, columns: list[str], rows: list[list[Cell]], step: int) -> None:
        if self._is_new(step):
            table = self._make_table(columns=[*columns], data=rows, allow_mixed_types=True)
            self._run.log({name: table}, step=step)

    def _is_new(self, step: int) -> bool:
        """Whether the run takes what is logged to a step: it has not gone on to a later one already."""
        if step < self._last_step:
            raise ValueError(
                f"step is {step} after {self._last_step}, but Weights & Biases drops what comes for an earlier one: "
                f"log in order, or make a tracker for each training"
            )
        self._last_step = step
        if step < self._logged_step:
            return False
        self._logged_step = step
        return True

    def _finish(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)
