"""The loop around a trainer's step."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo.data._checks import check_states
from grpo.data._protocols import missing_methods
from grpo.distributed.errors import RankError
from grpo.distributed.world import World
from grpo.rollout.sampler import CutsEpisodes
from grpo.runs._description import description_of
from grpo.runs._ending import COUNTERS, Told, why_over
from grpo.runs._folder import RunFolder
from grpo.runs._sharded import sharded_of
from grpo.runs._shares import (
    as_of_other_ranks,
    begin_anew_what_is_of_a_rank,
    require_same_number,
    require_same_source,
)
from grpo.runs._state import load_into, load_or_leave, state_of, with_other_callbacks
from grpo.runs.callback import Callback, CallbackError, fulfils, require_callbacks, tell, tell_error
from grpo.runs.checkpoints import Checkpoints
from grpo.runs.signals import NotesSignals, RunInterrupted
from grpo.runs.state_sources import DrawnStates, source_of
from grpo.runs.until import Until
from grpo.training._optimization import level_of_caller
from grpo.training.policy_trainer import PolicyTrainer


class Run:
    """A trainer, where its states come from, and what happens between its steps.

    Where the trainer is one of several processes, each has a run of its own, made in the same way: all draw the same
    states, and each gives its trainer its share of them. They end together, whatever ends one. The first process
    writes the files, and all of them the checkpoints, in a folder that all see.

    Args:
        trainer: any trainer of this library, or one of your own that inherits from :class:`grpo.PolicyTrainer`.
        states: what ``trainer.step`` is given: a batch, the same at each step; a function of the step, counted from 0;
            or a :class:`grpo.StateSource`, such as a :class:`grpo.StateLoader` of rows.
        folder: for what the run writes, made if it is not there; None to write nothing. ``run.json`` says what the run
            is made of, ``metrics.jsonl`` has a line of metrics for each step, ``evaluations.jsonl`` one for each
            evaluation, ``times.jsonl`` what the wall time of each step went into, and ``checkpoints`` the checkpoints.
        checkpoints: when to save; None never to. They need a folder.
        callbacks: told what happens, in this order.

    Attributes:
        trainer: the trainer.
        world: the processes that train together, as the trainer was told.
        folder: where the run writes, or None.
        callbacks: told what happens.
        num_steps: steps so far, those before it was resumed included; as of the following.
        num_samples: samples, or pairs, that were learnt from.
        num_decisions: decisions that were learnt from.
        seconds: wall time, in which evaluations and checkpoints count.
        metrics: of the last step.
        evaluation: metrics of the last evaluations, by name.
        stopped_by: why the run is over; None while it goes on.

    Raises:
        TypeError: if the trainer is none, or a callback.
        ValueError: if there are checkpoints, but no folder.

    Example:
        >>> import torch
        >>> from grpo import GRPOConfig, GRPOTrainer
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> trainer = GRPOTrainer(GRPOConfig(learning_rate=0.1), SoftmaxPolicy(3), StationaryBandit([0.0, 0.5, 1.0]))
        >>> run = Run(trainer, states=["the only state"])
        >>> run(Until(steps=50, condition=lambda metrics: metrics["reward"] == 1.0))
        >>> run.num_steps <= 50
        True
    """

    def __init__(
        self,
        trainer: PolicyTrainer[Any, Any],
        states: Any,
        *,
        folder: str | Path | None = None,
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not isinstance(trainer, PolicyTrainer):
            raise TypeError(f"trainer is {trainer!r}, expected a trainer, such as grpo.GRPOTrainer(...)")
        if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
            raise TypeError(f"checkpoints is {checkpoints!r}, expected grpo.Checkpoints(every=...) or None")
        if checkpoints is not None and folder is None:
            raise ValueError("checkpoints need a folder to be written to: pass folder=, or checkpoints=None")
        self.trainer: Any = trainer
        self.folder = None if folder is None else Path(folder)
        self.callbacks = require_callbacks(callbacks)
        self._source = source_of(states)
        self._checkpoints = checkpoints
        self._world: World = trainer.world
        self._run_folder = None if self.folder is None else RunFolder(self.folder, checkpoints, self._world)
        self._signals = NotesSignals()
        self._is_going = False
        self._saved_step: int | None = None
        self._num_states = 0
        self._drawn: DrawnStates | None = None
        self.num_steps = self.num_samples = self.num_decisions = 0
        self.seconds = 0.0
        self.metrics: dict[str, float] = {}
        self.evaluation: dict[str, float] = {}
        self._evaluation_of_step: dict[str, float] = {}
        self.stopped_by: str | None = None

    def __call__(self, until: Until) -> None:
        """Train.

        A SIGINT, SIGTERM or SIGUSR1 lets the step under way end, saves the run where it is to be saved, and ends it; a
        second one ends it at once.

        Args:
            until: when the run is over.

        Raises:
            RunInterrupted: if a signal has ended the run, of this process or of another one.
            CallbackError: if a callback raises; the run is saved before.
            RankError: if another process has failed.
            RankLostError: if another process is gone.
            FileExistsError: if the folder holds another run, which this one was not resumed from.
        """
        if not isinstance(until, Until):
            raise TypeError(f"until is {until!r}, expected grpo.Until(steps=...)")
        if self._is_going:
            raise RuntimeError("this run goes on already: call it again when it is over, and not from a callback")
        self.stopped_by = None
        if self._run_folder is not None:
            self._run_folder.begin(description_of(self.trainer))
        try:
            self._is_going = True
            with NotesSignals() as self._signals, self._world.together():
                self._loop(until)
        except BaseException as error:
            tell_error(self, error)
            self._close()
            raise
        else:
            with self._world.together():
                self._close()
        finally:
            self._is_going = False
        if self._signals.received is not None:
            raise RunInterrupted(self._signals.received)

    def _close(self) -> None:
        if self._run_folder is not None:
            self._run_folder.close()

    def _loop(self, until: Until) -> None:
        began = time.perf_counter() - self.seconds
        with self._on_all():
            require_same_source(self._source, self._world)
            self._save(must=True)
            tell(self, "start")
            self._compare()
        while not self._is_over(until):
            with self._on_all():
                states = self._next_states()
            metrics = self.trainer.step(states)
            self._drawn = None
            self.seconds = time.perf_counter() - began
            with self._on_all():
                self._note(metrics)
                tell(self, "after_step", metrics)
                if self._checkpoints is not None and self.num_steps % self._checkpoints.every == 0:
                    self._save()
        with self._on_all():
            self._save()
            self._compare(at_end=True)
            tell(self, "end")

    @contextmanager
    def _on_all(self) -> Iterator[None]:
        """A block whose failure is raised on all processes, that of a callback after the run was saved."""
        try:
            yield
        except BaseException as error:
            self._world.fail(error)
            if isinstance(error, CallbackError) or (isinstance(error, RankError) and error.is_a(CallbackError)):
                self._save_before(error)
            raise

    def _next_states(self) -> Any:
        """This process's share of the states of the next step; a step that failed is made again with the same."""
        try:
            if self._drawn is None:
                self._drawn = DrawnStates.of(self._source, self.num_steps)
        except StopIteration as error:
            raise ValueError(
                f"the states have come to an end after {self.num_steps} steps: end the run earlier, by "
                f"Until(steps={self.num_steps}), or give it more; a StateLoader goes through rows again and again"
            ) from error
        states = self._drawn.states
        if self._world.is_alone or states is getattr(getattr(self.trainer, "sampler", None), "states", None):
            return states  # the running environments of a sampler are this process's own
        check_states(states)
        self._num_states = len(states)
        return self._world.share(states)

    @property
    def world(self) -> World:
        """The processes that train together."""
        return self._world

    def stop(self, reason: str) -> None:
        """End the run after the step under way; ``reason`` is kept in :attr:`stopped_by`."""
        if not isinstance(reason, str):
            raise TypeError(f"reason is {reason!r}, expected a text: why the run ends")
        self.stopped_by = reason

    def note_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of an evaluation of the policy as it is now, and tell the callbacks."""
        self.evaluation.update(metrics)
        self._evaluation_of_step.update(metrics)
        self._write("evaluations", metrics)
        tell(self, "after_evaluation", metrics)

    def resume(self, *, override: bool = False) -> bool:
        """Go on from the latest checkpoint in the folder that is whole.

        Files that the run writes are taken back to where they were then. A run that was killed before its first
        checkpoint, and so before its first step, begins anew.

        Args:
            override: go on though settings or callbacks have changed, as a warning says.

        Returns:
            Whether there was a checkpoint.

        Raises:
            CheckpointError: if the folder holds a run of another trainer or of other models, or of a later version of
                this library, or settings have changed, or steps were made, but no checkpoint is whole; the message
                says which. This run and the folder are then as they were.
            FileExistsError: if another run writes into the folder now.

        Warns:
            UserWarning: for each checkpoint that is not whole, and left out.
        """
        if self._run_folder is None:
            raise ValueError("this run has no folder to go on from: construct it with folder=")
        if self._is_going:
            raise RuntimeError("this run goes on already: resume it when it is over, and not from a callback")
        with self._run_folder.alone():
            return self._resume(self._run_folder, override=override)

    def _resume(self, folder: RunFolder, *, override: bool) -> bool:
        found = folder.latest(lambda: sharded_of(self.trainer))
        if found is None:
            folder.take_over(None)
            return False
        path, manifest, state = found
        with self._world.together():
            described = description_of(self.trainer)
            changed = folder.changes_since(manifest, described, override=override)
        if override:
            state, told = with_other_callbacks(self, state)
            changed = [*changed, *told]
        num_ranks = manifest.get("ranks", 1)
        is_of_others = num_ranks != self._world.size
        load_or_leave(self, path, as_of_other_ranks(state, self.trainer) if is_of_others else state)
        if is_of_others:
            self._warn(begin_anew_what_is_of_a_rank(self.trainer, num_ranks))
        if changed:
            self._warn(f"the run goes on with other settings: {'; '.join(changed)}")
            if manifest["config"].get("learning_rate") != described["config"].get("learning_rate"):
                self.trainer.apply_learning_rate()
        folder.take_over(path)
        self._saved_step = None if changed else self.num_steps  # the next start saves it with its new settings
        return True

    def _warn(self, text: str) -> None:
        if self._world.rank == 0:
            warnings.warn(text, stacklevel=level_of_caller())

    def state_dict(self) -> dict[str, Any]:
        """All that a run consists of, copied.

        That is the trainer with all that it was given, the position in the states, the callbacks that are
        :class:`grpo.Stateful`, the counters, how far files are written, and the global random generators.
        """
        return state_of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this run, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another; this run may be half changed then.
        """
        load_into(self, state_dict)

    def _note(self, metrics: Mapping[str, float]) -> None:
        """Count a step, and write what it told."""
        self._evaluation_of_step = {}
        self.num_steps += 1
        self.num_samples += int(metrics.get("num_samples", metrics.get("num_pairs", 0)))
        self.num_decisions += int(metrics.get("num_decisions", 0))
        self.metrics = dict(metrics)
        self._write("metrics", metrics)
        self._write("times", {"seconds": self.seconds, **self.trainer.phases.seconds})

    def _write(self, file: str, line: Mapping[str, float]) -> None:
        if self._run_folder is not None:
            self._run_folder.write(file, {"step": self.num_steps, **line})

    def _save(self, *, must: bool = False) -> None:
        """Save the run as it is now, if it is to be saved and was not already."""
        if self._run_folder is None or self._run_folder.writer is None or self._saved_step == self.num_steps:
            return
        sampler: Any = getattr(self.trainer, "sampler", None)
        if not missing_methods(sampler, CutsEpisodes):
            sampler.cut(self.num_steps)
        self._compare()
        manifest = {"step": self.num_steps, **description_of(self.trainer)}
        self._run_folder.writer.write(self.num_steps, self.state_dict, manifest, must=must)
        self._saved_step = self.num_steps

    def _compare(self, *, at_end: bool = False) -> None:
        """Note whether the checkpoint of this step, there already or about to be, is the best so far."""
        if self._run_folder is not None and self._run_folder.writer is not None:
            self._run_folder.writer.compare(self.num_steps, self.metrics | self._evaluation_of_step)
            if self.num_steps > 0:
                self._run_folder.writer.warn_of_unknown(self.metrics | self.evaluation, at_end=at_end)

    def _is_over(self, until: Until) -> bool:
        """Whether the run has ended, and by what, on all processes alike."""
        told = self._told_by_all(until)
        self.seconds = told[0].seconds
        self.stopped_by = why_over(until, {name: getattr(self, name) for name in COUNTERS}, told)
        self._signals.received = self._signals.received or next(filter(None, (each.signal for each in told)), None)
        return self.stopped_by is not None

    def _told_by_all(self, until: Until) -> list[Told]:
        """What may end the run on any process; a checkpoint that all have written gets its name."""
        with self._on_all():
            ends = fulfils(until.condition, self)
            folder = self._run_folder
            is_written = folder is not None and folder.is_written
            own = Told(self.seconds, self.stopped_by, ends, self._signals.received, is_written, self._num_states)
            told = self._world.gather(own)
            if folder is not None and all(each.is_written for each in told):
                folder.wait()
            require_same_number([each.num_states for each in told])
            return told

    def _save_before(self, failure: BaseException) -> None:
        try:
            self._save(must=True)
        except Exception as another:
            failure.add_note(f"the run could not be saved either: {type(another).__name__}: {another}")
