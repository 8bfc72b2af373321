"""What is best so far."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo.data._checks import require_positive_integer
from grpo.data._part_state import load_whole_part_states, part_states
from grpo.data._settings import settings_of
from grpo.data.state import require_keys
from grpo.runs._comparison import BestIs, is_better, metrics_meant
from grpo.runs._description import versions, warn_of_other_settings
from grpo.runs._folder import CHECKPOINTS
from grpo.runs._latest import latest_whole
from grpo.runs._plain_data import to_plain
from grpo.runs._sharded import whole
from grpo.runs._storage import CheckpointError, present, read_manifest, read_state, write_state
from grpo.runs.callback import Callback
from grpo.runs.run import Run

FOLDER = "best"


class _FollowsMetric(Callback, ABC):
    """Knows the best value of a metric so far, of steps or of evaluations."""

    def __init__(self, metric: str, best_is: BestIs = "highest") -> None:
        if not isinstance(metric, str):
            raise TypeError(f"metric is {metric!r}, expected the name of one, 'evaluation/reward' for instance")
        if best_is not in ("highest", "lowest"):
            raise ValueError(f"best_is is {best_is!r}, expected 'highest' or 'lowest'")
        self.metric = metric
        self.best_is = best_is
        self.best: float | None = None
        self._has_warned = False
        self._run: Run | None = None

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Look at the metrics of a step."""
        self._look(run, metrics)
        if "/" not in self.metric:
            self._warn_if_unknown(metrics, at_end=False)

    def after_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Look at the metrics of an evaluation."""
        self._look(run, metrics)
        if "/" in self.metric:
            self._warn_if_unknown(metrics, at_end=False)

    def end(self, run: Run) -> None:
        """Warn if the metric has never come."""
        self._warn_if_unknown(run.metrics | run.evaluation, at_end=True)

    def _look(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._follow(run)
        value = metrics.get(self.metric)
        if value is None or math.isnan(value):
            return
        better = is_better(value, self.best, self.best_is)
        if better:
            self.best = value
        self._seen(run, value, is_better=better)

    def _follow(self, run: Run) -> None:
        """Forget what was seen of another run; a state that was loaded is of this one."""
        if self._run is not None and self._run is not run:
            self._begin_anew()
        self._run = run

    def _begin_anew(self) -> None:
        self.best, self._has_warned = None, False

    def _warn_if_unknown(self, known: Mapping[str, float], *, at_end: bool) -> None:
        """Warn, once, if the metric has never come, though others have; a slip of the pen is told in time."""
        if self.best is not None or self.metric in known or self._has_warned:
            return
        meant = metrics_meant(self.metric, known, at_end=at_end)
        if meant:
            self._has_warned = True
            warnings.warn(
                f"{type(self).__name__} has seen no number called {self.metric!r}, and has done nothing: expected one "
                f"of {meant}",
                stacklevel=3,
            )

    @abstractmethod
    def _seen(self, run: Run, value: float, *, is_better: bool) -> None: ...


class BestWeights(_FollowsMetric):
    """Keeps the policy as it was when a metric was best, in the run's folder ``best``.

    Args:
        metric: of a step or of an evaluation, ``"evaluation/reward"`` for instance.
        best_is: whether its ``"highest"`` or its ``"lowest"`` value is best.

    Attributes:
        best: the best value so far; None before the first one.

    Example:
        >>> BestWeights("evaluation/reward").best is None
        True
    """

    def start(self, run: Run) -> None:
        """Check that there is a folder to write to, and that nothing else writes there."""
        if run.folder is None:
            raise ValueError("BestWeights need a folder to be written to: construct the run with folder=")
        others = [other for other in run.callbacks if isinstance(other, BestWeights) and other is not self]
        if others:
            raise ValueError(
                f"two BestWeights, of {self.metric!r} and {others[0].metric!r}, would write over each other's weights: "
                f"keep one, and give Checkpoints(keep_best=...) the other metric"
            )

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        require_keys(state_dict, {"best"}, self)
        self.best, self._run = state_dict["best"], None

    def _seen(self, run: Run, value: float, *, is_better: bool) -> None:
        if is_better:
            assert run.folder is not None
            state = to_plain(whole(part_states({"policy": run.trainer.policy})))
            if run.world.rank > 0:
                return
            note = {"step": run.num_steps, "metric": self.metric, "value": value}
            made = {"parts": settings_of("policy", run.trainer.policy), "versions": versions()}
            write_state(run.folder / FOLDER, state, note | made)


def load_best_weights(policy: object, folder: str | Path) -> dict[str, Any]:
    """Give a policy the weights that :class:`BestWeights` kept of one that was constructed in the same way.

    Args:
        policy: takes the weights.
        folder: of the run.

    Returns:
        The ``step`` that they are of, the ``metric`` and its ``value``.

    Raises:
        CheckpointError: if they are not there, or not as they were written.
        ValueError: if they are of another policy; nothing has changed then.

    Warns:
        UserWarning: if the policy was made with other settings than the one that they are of.

    Example:
        >>> import tempfile
        >>> from grpo import GRPOConfig, GRPOTrainer, Until
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> trainer = GRPOTrainer(GRPOConfig(), SoftmaxPolicy(2), StationaryBandit([1.0, 1.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Run(trainer, ["a state"], folder=folder, callbacks=[BestWeights("reward")])(Until(steps=2))
        ...     load_best_weights(SoftmaxPolicy(2), folder)
        {'step': 1, 'metric': 'reward', 'value': 1.0}
    """
    path = present(Path(folder) / FOLDER)
    if not path.is_dir():
        raise CheckpointError(
            f"there is no {path}: choose the folder of a run that had BestWeights, and in which its metric has come"
        )
    note = read_manifest(path)
    load_whole_part_states({"policy": policy}, read_state(path), policy)
    warn_of_other_settings(policy, note)
    return {name: note[name] for name in ("step", "metric", "value")}


def load_latest_weights(policy: object, folder: str | Path) -> int:
    """Give a policy the weights of a run's latest checkpoint that is whole; nothing in the folder changes.

    Args:
        policy: takes the weights; it was constructed in the same way as the one that was trained.
        folder: of the run.

    Returns:
        The step that they are of.

    Raises:
        CheckpointError: if there is no such checkpoint.
        ValueError: if the weights are of another policy; nothing has changed then.

    Warns:
        UserWarning: if the policy was made with other settings than the one that they are of.

    Example:
        >>> import tempfile
        >>> from grpo import Checkpoints, GRPOConfig, GRPOTrainer, Until
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> trainer = GRPOTrainer(GRPOConfig(), SoftmaxPolicy(2), StationaryBandit([0.0, 1.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Run(trainer, ["a state"], folder=folder, checkpoints=Checkpoints(every=2))(Until(steps=3))
        ...     load_latest_weights(SoftmaxPolicy(2), folder)
        3
    """
    found = latest_whole(Path(folder) / CHECKPOINTS)
    if found is None:
        raise CheckpointError(
            f"{Path(folder) / CHECKPOINTS} holds no checkpoint: choose the folder of a run that was given checkpoints="
        )
    _, manifest, state = found
    load_whole_part_states({"policy": policy}, {"policy": state["trainer"]["parts"]["policy"]}, policy)
    warn_of_other_settings(policy, manifest)
    return int(manifest["step"])


class EarlyStopping(_FollowsMetric):
    """Stops a run when a metric has reached a bar, or has not become better for a while.

    Args:
        metric: of a step or of an evaluation, ``"evaluation/reward"`` for instance.
        bar: the value at which it is good enough; None for none.
        patience: how many times in a row it may come without being better than before; None for ever.
        best_is: whether its ``"highest"`` or its ``"lowest"`` value is best.

    Raises:
        ValueError: if there is neither a bar nor a patience.

    Example:
        >>> from grpo import GRPOConfig, GRPOTrainer, Until
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> trainer = GRPOTrainer(GRPOConfig(), SoftmaxPolicy(2), StationaryBandit([1.0, 1.0]))
        >>> run = Run(trainer, ["the only state"], callbacks=[EarlyStopping("reward", patience=3)])
        >>> run(Until(steps=100))
        >>> run.num_steps, run.stopped_by
        (4, 'reward has not become better than 1 for 3 times')
    """

    def __init__(
        self, metric: str, *, bar: float | None = None, patience: int | None = None, best_is: BestIs = "highest"
    ) -> None:
        if bar is None and patience is None:
            raise ValueError("EarlyStopping never stops: give a bar, a patience, or both")
        if bar is not None and (not isinstance(bar, float | int) or math.isnan(bar)):
            raise ValueError(f"bar is {bar!r}, expected a number: the value at which it is good enough")
        if patience is not None:
            require_positive_integer(patience, "patience", "how often in a row it may come without being better")
        super().__init__(metric, best_is)
        self.bar = bar
        self.patience = patience
        self.num_without_progress = 0

    def start(self, run: Run) -> None:
        """Stop a run that goes on after it was stopped."""
        self._follow(run)
        self._stop_if_enough(run, self.best)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and for how long none was better."""
        return {"best": self.best, "num_without_progress": self.num_without_progress}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        require_keys(state_dict, {"best", "num_without_progress"}, self)
        self.best, self.num_without_progress = state_dict["best"], state_dict["num_without_progress"]
        self._run = None

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self.num_without_progress = 0

    def _seen(self, run: Run, value: float, *, is_better: bool) -> None:
        self.num_without_progress = 0 if is_better else self.num_without_progress + 1
        self._stop_if_enough(run, value)

    def _stop_if_enough(self, run: Run, value: float | None) -> None:
        if value is None:
            return
        if self.bar is not None and (value >= self.bar if self.best_is == "highest" else value <= self.bar):
            run.stop(f"{self.metric}={value:.6g} has reached {self.bar:g}")
        elif self.patience is not None and self.num_without_progress >= self.patience:
            run.stop(f"{self.metric} has not become better than {self.best:.6g} for {self.num_without_progress} times")
