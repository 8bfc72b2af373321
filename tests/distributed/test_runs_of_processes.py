"""Runs of several processes: one end, one set of files, and the share of each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bandit_of_ranks
import pytest
import torch
from processes import answers_of_ranks, on_ranks

from grpo import (
    Callback,
    CallbackError,
    CheckpointError,
    Checkpoints,
    Evaluate,
    GRPOConfig,
    PolicyTrainer,
    RankError,
    Run,
    RunInterrupted,
    StateLoader,
    Track,
    Until,
    World,
)
from grpo_adapters.bandit import SoftmaxPolicy


class Notes(PolicyTrainer[Any, Any]):
    """Notes what it is given, and adds it up over all processes."""

    def __init__(self, world: World) -> None:
        super().__init__(GRPOConfig(), SoftmaxPolicy(3), world=world)
        self.given: list[Any] = []

    def step(self, states: Any) -> dict[str, float]:
        self.given.append(states.tolist() if isinstance(states, torch.Tensor) else list(states))
        self.num_steps += 1
        total = self.world.sum(torch.tensor(float(sum(map(float, states)))))
        return {"total": total.item(), "num_samples": float(len(states))}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def what_is_given(world: World, kind: str, count: int) -> Any:
    states: Any = {
        "list": list(range(count)),
        "tensor": torch.arange(count),
        "function": lambda step: range(step, step + count),
        "loader": StateLoader(list(range(10)), batch_size=count, seed=3),
    }[kind]
    trainer = Notes(world)
    Run(trainer, states)(Until(steps=3))
    return trainer.given


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", ["list", "tensor", "function", "loader"])
def test_each_process_is_given_its_share_of_what_one_would_be_given(kind: str, count: int) -> None:
    [alone] = on_ranks(1, what_is_given, kind, count)
    shares = on_ranks(4, what_is_given, kind, count)
    together = [[state for share in shares for state in share[step]] for step in range(3)]
    assert together == alone
    sizes = [len(share[0]) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def ends(world: World, folder: Path, how: str) -> Any:
    class Ends(Callback):
        def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
            if run.num_steps != 3 or world.rank != 1:
                return
            if how == "stop":
                run.stop("enough")
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            if how == "slow":
                time.sleep(0.3)

    trainer = Notes(world)
    untils = {
        "steps": Until(steps=3),
        "condition": Until(condition=lambda metrics: world.rank == 1 and trainer.num_steps == 3),
        "seconds": Until(seconds=0.25),
    }
    run = Run(trainer, [1, 2, 3], folder=folder, checkpoints=Checkpoints(every=10**6), callbacks=[Ends()])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            run(untils.get(how, Until(steps=100 if how != "slow" else 5)))
        signal_name = None
    except RunInterrupted as interrupted:
        signal_name = interrupted.signal_name
    return run.num_steps, run.stopped_by, signal_name


@pytest.mark.parametrize(
    ("how", "reason"),
    [("steps", "steps=3"), ("condition", "condition"), ("stop", "enough"), ("seconds", "seconds=0.25")],
)
def test_all_end_after_the_same_step_for_the_same_reason(tmp_path: Path, how: str, reason: str) -> None:
    first, *others = on_ranks(2, ends, tmp_path, how)
    assert first[1:] == (reason, None)
    assert first[0] == 3 or how == "seconds"
    assert all(other == first for other in others)
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, first[0] + 1))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000000000", f"step-{first[0]:09d}"]


def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path: Path) -> None:
    for num_steps, reason, name in on_ranks(2, ends, tmp_path, "signal"):
        assert (num_steps, reason, name) == (3, "SIGTERM", "SIGTERM")


class Fails(Callback):
    """Raises on one rank after the second step, or when it is told of something else."""

    def __init__(self, event: str) -> None:
        self.event = event

    def start(self, run: Run) -> None:
        self._fail(run, "start", 0)

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._fail(run, "after_step", 2)

    def end(self, run: Run) -> None:
        self._fail(run, "end", 4)

    def _fail(self, run: Run, event: str, step: int) -> None:
        if run.world.rank == 1 and event == self.event and run.num_steps == step:
            raise KeyError("of a callback")


def fails(world: World, folder: Path, event: str) -> Any:
    """What is raised, twice, and that all can go on together afterwards."""
    raised = []

    def condition(metrics: Mapping[str, float]) -> bool:
        return 1 / (world.rank - 1 if run.num_steps == 2 else 7) > 2

    def states(step: int) -> Any:
        if step == 2 and world.rank == 1:
            raise OSError("of a disk")
        return [step, step]

    given: Any = states if event == "states" else [1, 2]
    until = Until(steps=4, condition=condition if event == "condition" else None)
    for attempt in range(2):
        place = folder / str(attempt)
        run = Run(Notes(world), given, folder=place, checkpoints=Checkpoints(every=100), callbacks=[Fails(event)])
        try:
            run(until)
        except (CallbackError, RankError, OSError) as error:
            raised.append(f"{type(error).__name__}: {error}")
        assert world.sum(torch.ones(1)).item() == world.size
    return raised, run.num_steps


@pytest.mark.parametrize(
    ("event", "step", "told"),
    [
        ("start", 0, "CallbackError: Fails.start raised KeyError after step 0: 'of a callback'"),
        ("after_step", 2, "CallbackError: Fails.after_step raised KeyError after step 2: 'of a callback'"),
        ("end", 4, "CallbackError: Fails.end raised KeyError after step 4: 'of a callback'"),
        ("condition", 2, "CallbackError: Until.condition raised ZeroDivisionError after step 2: division by zero"),
        ("states", 2, "OSError: of a disk"),
    ],
)
def test_a_failure_in_one_process_ends_all_and_a_callbacks_is_saved_before(
    tmp_path: Path, event: str, step: int, told: str
) -> None:
    for rank, (raised, num_steps) in enumerate(on_ranks(2, fails, tmp_path, event)):
        assert raised == [told if rank == 1 else f"RankError: rank 1 failed: {told}"] * 2
        assert num_steps == step
    saved = sorted(path.name for path in (tmp_path / "1" / "checkpoints").iterdir())
    assert saved == sorted({"step-000000000", f"step-{0 if event == 'states' else step:09d}"})


class Tracker:
    def __init__(self) -> None:
        self.logged: list[int] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append(step)


def tells(world: World, folder: Path) -> Any:
    tracker = Tracker()
    evaluate = Evaluate(lambda policy: {"reward": float(world.rank + 7)}, every=2)
    run = Run(Notes(world), [1, 2, 3], folder=folder, callbacks=[evaluate, Track(tracker)])
    run(Until(steps=4))
    return tracker.logged, run.evaluation, run.metrics["total"], run.seconds


def test_one_process_tells_and_all_know_the_same(tmp_path: Path) -> None:
    (logged, *first), *others = on_ranks(4, tells, tmp_path)
    assert logged == [0, 1, 2, 2, 3, 4, 4]
    assert first[:2] == [{"evaluation/reward": 7.0}, 6.0]
    for other_logged, *other in others:
        assert other_logged == []
        assert other == first
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [line["step"] for line in lines(tmp_path / "evaluations.jsonl")] == [0, 2, 4]


def parts_ways(world: World, how: str) -> Any:
    seed, count = (world.rank, 4) if how == "seed" else (0, 4 + world.rank)
    states: Any = StateLoader(list(range(10)), batch_size=4, seed=seed) if how == "seed" else list(range(count))
    Run(Notes(world), states)(Until(steps=2))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("seed", "the source of states is another, or elsewhere on rank 1 than on rank 0: give the runs of all"),
        ("count", r"number of states is another \(4, 5 by rank\) on rank 1 than on rank 0"),
    ],
)
def test_processes_that_draw_other_states_are_told(how: str, told: str) -> None:
    for _, error, _ in answers_of_ranks(2, parts_ways, how):
        with pytest.raises(ValueError, match=told):
            raise error


def on_disks_of_their_own(world: World, folder: Path, kind: str) -> str:
    from grpo.runs import _part_writer

    _part_writer.SECONDS_UNTIL_SEEN = 0.2 if kind != "begins late" else 60.0
    own = folder / str(world.rank)
    if kind == "resumes" and world.rank == 0:
        Run(Notes(World()), [1, 2], folder=own, checkpoints=Checkpoints(every=2))(Until(steps=2))
    run = Run(Notes(world), [1, 2], folder=own, checkpoints=Checkpoints(every=2))
    try:
        if kind == "resumes":
            run.resume()
        run(Until(steps=2))
    except (CheckpointError, RankError) as error:
        world.agree()
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("begins", "rank 1 does not see what rank 0 has written into"),
        ("begins late", "rank 1 does not see what rank 0 has written into"),
        ("resumes", "rank 0 sees the checkpoints step-000000002, step-000000000 in"),
    ],
)
def test_a_folder_that_not_all_see_is_told(tmp_path: Path, kind: str, told: str) -> None:
    for error in on_ranks(2, on_disks_of_their_own, tmp_path, kind, timeout=3.0 if kind == "begins late" else 60.0):
        assert told in error
        assert "disk that all processes share" in error


def test_what_torchrun_starts_again_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    expected, _ = on_ranks(2, bandit_of_ranks.train, tmp_path / "undisturbed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    launched = subprocess.run([*launcher, bandit_of_ranks.__file__, str(tmp_path)], capture_output=True, text=True)
    assert launched.returncode == 0, launched.stderr
    assert "exitcode: -9" in launched.stderr or "SIGKILL" in launched.stderr or "restart" in launched.stderr.lower()
    for rank in range(2):
        assert (tmp_path / f"logits-{rank}").read_text() == repr(expected)
    runs = [lines(tmp_path / name / "metrics.jsonl") for name in ("run", "undisturbed")]
    assert runs[0] == runs[1]
