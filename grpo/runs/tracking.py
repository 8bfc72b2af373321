"""What a run tells, told to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import Protocol, runtime_checkable

from grpo.data._checks import require_positive_integer
from grpo.data._protocols import require_methods
from grpo.data.experience import Experience
from grpo.data.state import load_state, require_keys, states_of
from grpo.runs._files import LinesFile
from grpo.runs.callback import Callback
from grpo.runs.run import Run

LONGEST_TEXT = 2000


@runtime_checkable
class LogsMetrics(Protocol):
    """Takes metrics by step, as the trackers of ``grpo_adapters.tracking`` do."""

    def log(self, metrics: Mapping[str, float], step: int) -> Any:
        """Note numbers by name."""
        ...


class Track(Callback):
    """Tells a tracker the metrics of steps and evaluations, and what the time of a step went into, ``time/sampling``.

    They are logged under the number of steps so far, 1 for those of the first step. Whoever has made the tracker closes
    it. Of several processes the first logs.

    Args:
        tracker: takes them; None in processes that need none. If it is :class:`grpo.Stateful`, its state is saved with
            the run, so that no step is logged twice where the run goes on.

    Raises:
        TypeError: if it has no method ``log``.

    Example:
        >>> from types import SimpleNamespace
        >>> from grpo import GRPOConfig, GRPOTrainer, Until
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> tracker = SimpleNamespace(log=lambda metrics, step: print(step, metrics["num_samples"]))
        >>> trainer = GRPOTrainer(GRPOConfig(group_size=4), SoftmaxPolicy(2), StationaryBandit([0.0, 1.0]))
        >>> Run(trainer, ["the only state"], callbacks=[Track(tracker)])(Until(steps=2))
        1 4.0
        2 4.0
    """

    def __init__(self, tracker: LogsMetrics | None) -> None:
        if tracker is not None:
            require_methods(tracker, LogsMetrics, "tracker")
        self.tracker = tracker

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Log what a step told."""
        times = {f"time/{phase}": seconds for phase, seconds in run.trainer.phases.seconds.items()}
        self._log(run, {**metrics, **times})

    def after_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Log what an evaluation told."""
        self._log(run, metrics)

    def state_dict(self) -> dict[str, Any]:
        """The tracker's state, if it tells one."""
        return {"tracker": states_of({"tracker": self.tracker}).get("tracker")}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        require_keys(state_dict, {"tracker"}, self)
        if state_dict["tracker"] is not None and self.tracker is not None:
            load_state(self.tracker, state_dict["tracker"], "tracker")

    def _log(self, run: Run, metrics: Mapping[str, float]) -> None:
        if run.world.rank > 0:
            return
        if self.tracker is None:
            raise ValueError("Track has no tracker in the process that logs, the first: give it one there")
        self.tracker.log(metrics, run.num_steps)


class SampleLog(Callback):
    """Writes samples to look at, a few of every so many steps, to ``samples.jsonl`` in the run's folder.

    They are the first of each group, then the second of each, as far as ``count`` goes: of as many states as can be.
    A line has the step, the state, the action, the reward, and the index of the group. Of several processes the first
    writes, and of its own samples.

    Args:
        every: steps between them.
        count: samples of a step.
        describe: texts of a state and an action; None for what ``str`` makes of them, cut after 2,000 characters.

    Example:
        >>> import tempfile
        >>> from grpo import GRPOConfig, GRPOTrainer, Until
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> trainer = GRPOTrainer(GRPOConfig(), SoftmaxPolicy(1), StationaryBandit([1.0]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Run(trainer, ["a state"], folder=folder, callbacks=[SampleLog(every=2, count=1)])
        ...     run(Until(steps=3))
        ...     print((run.folder / "samples.jsonl").read_text(), end="")
        {"step": 2, "state": "a state", "action": "tensor(0)", "reward": 1.0, "group": 0}
    """

    def __init__(
        self, every: int, count: int = 4, *, describe: Callable[[Any, Any], tuple[str, str]] | None = None
    ) -> None:
        require_positive_integer(every, "every", "steps between samples")
        require_positive_integer(count, "count", "samples of a step")
        self.every = every
        self.count = count
        self.describe = describe if describe is not None else _as_texts
        self._file: LinesFile | None = None
        self._length = 0

    def start(self, run: Run) -> None:
        """Open the file."""
        if run.folder is None:
            raise ValueError("SampleLog needs a folder to write to: construct the run with folder=")
        if any(isinstance(other, SampleLog) and other is not self for other in run.callbacks):
            raise ValueError("two SampleLogs of a run would write into one file: keep one, with a describe for both")
        if run.world.rank > 0:
            return
        path = run.folder / "samples.jsonl"
        if self._file is None or self._file.path != path:
            self._file = LinesFile(path)
            self._file.go_on_from(self._length)

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Write samples if it is time to."""
        experience: Experience | None = getattr(run.trainer, "last_experience", None)
        if self._file is None or experience is None or run.num_steps % self.every != 0:
            return
        rewards = experience.sample_rewards.values.tolist()
        groups = experience.group_of_sample.tolist()
        for sample in _spread(groups, self.count):
            state, action = self.describe(experience.states[sample], experience.actions[sample])
            line = {"step": run.num_steps, "state": state, "action": action, "reward": rewards[sample]}
            self._file.write({**line, "group": groups[sample]})

    def end(self, run: Run) -> None:
        """Let everything be written."""
        if self._file is not None:
            self._file.close()

    def on_error(self, run: Run, error: BaseException) -> None:
        """Let everything be written."""
        self.end(run)

    def state_dict(self) -> dict[str, Any]:
        """How far the file is written."""
        return {"length": self._length if self._file is None else self._file.length}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        require_keys(state_dict, {"length"}, self)
        self._length = state_dict["length"]
        if self._file is not None:
            self._file.go_on_from(self._length)


def _spread(groups: Sequence[int], count: int) -> list[int]:
    """Indices of so many samples, in order: one of each group before there is a second of any."""
    seen: Counter[int] = Counter()
    rounds = []
    for group in groups:
        rounds.append(seen[group])
        seen[group] += 1
    return sorted(sorted(range(len(groups)), key=rounds.__getitem__)[:count])


def _as_texts(state: Any, action: Any) -> tuple[str, str]:
    return str(state)[:LONGEST_TEXT], str(action)[:LONGEST_TEXT]
