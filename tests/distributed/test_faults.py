"""What one process of several comes to is told to the others, and all are then as they were."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FunctionRewards, TablePolicy
from processes import on_ranks

import grpo.training._rollback
from grpo import Callback, GRPOConfig, GRPOTrainer, RankError, Run, Until, World

FAULTS = 12
TESTS = Path(__file__).parent.parent
HIGH = FunctionRewards(lambda state, action: float(action))


def test_faults_at_random_places() -> None:
    """In a process of its own, which has no threads."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, str(TESTS / "reliability" / "ranks.py"), "--faults", str(FAULTS)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["faults"] == FAULTS
    assert set(report["kinds"]) == {"kill", "hang", "raise", "out of memory", "NaN", "NaN, skipped"}


class FailsAfterUpdate(torch.optim.SGD):
    fails = False

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        if self.fails:
            raise RuntimeError("out of memory")
        return result


def fails_in_the_only_update(world: World) -> tuple[str, bool]:
    policy = TablePolicy()
    optimizer = FailsAfterUpdate([policy.logits], lr=1.0)
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, HIGH, optimizer=optimizer, world=world)
    small, grpo.training._rollback.SMALL = grpo.training._rollback.SMALL, 0
    before = policy.logits.detach().clone()
    optimizer.fails = world.rank == 1
    try:
        trainer.step([0, 1])
    except RuntimeError as error:
        return type(error).__name__, torch.equal(policy.logits, before)
    finally:
        grpo.training._rollback.SMALL = small
    return "nothing", False


def test_large_parameters_are_put_back_where_another_process_failed_after_the_only_update() -> None:
    assert on_ranks(2, fails_in_the_only_update) == [("RankError", True), ("RuntimeError", True)]


class Fails(Callback):
    def __init__(self, where: str, rank: int) -> None:
        self.where, self.rank = where, rank

    def _maybe(self, run: Run, where: str) -> None:
        if where == self.where and run.trainer.world.rank == self.rank:
            raise KeyError(where)

    def start(self, run: Run) -> None:
        self._maybe(run, "start")

    def after_step(self, run: Run, metrics: Any) -> None:
        self._maybe(run, f"after_step {run.num_steps}")

    def end(self, run: Run) -> None:
        self._maybe(run, "end")


def runs(world: World, where: str) -> tuple[str, int, bool]:
    policy = TablePolicy()
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, HIGH, world=world)
    run = Run(trainer, [0, 1], callbacks=[Fails(where, rank=0)])
    try:
        run(Until(steps=2))
    except Exception as error:
        seen = type(error).__name__
    num_steps = run.num_steps
    run.callbacks.clear()
    run(Until(steps=3))
    return seen, num_steps, all(torch.equal(policy.logits, other) for other in world.gather(policy.logits.detach()))


@pytest.mark.parametrize(("where", "num_steps"), [("start", 0), ("after_step 1", 1), ("after_step 2", 2), ("end", 2)])
def test_what_a_callback_raises_is_raised_on_all_once(where: str, num_steps: int) -> None:
    assert on_ranks(2, runs, where) == [("CallbackError", num_steps, True), ("RankError", num_steps, True)]


class Stops(Callback):
    def after_step(self, run: Run, metrics: Any) -> None:
        if run.num_steps == 2 and run.trainer.world.rank == 1:
            run.stop("enough")


def stops(world: World) -> tuple[int, str | None]:
    trainer = GRPOTrainer(GRPOConfig(group_size=4), TablePolicy(), HIGH, world=world)
    run = Run(trainer, [0, 1], callbacks=[Stops()])
    run(Until(steps=5))
    return run.num_steps, run.stopped_by


def test_all_stop_where_one_does() -> None:
    assert on_ranks(2, stops) == [(2, "enough")] * 2


def tells_twice(world: World) -> list[str]:
    seen = []
    for attempt in range(2):
        try:
            with world.together(), world.together():
                if world.rank == 1:
                    raise KeyError(attempt)
        except (KeyError, RankError) as error:
            seen.append(type(error).__name__)
        assert world.sum(torch.ones(1)).item() == world.size
    return seen


def test_an_error_is_told_once() -> None:
    assert on_ranks(2, tells_twice) == [["RankError"] * 2, ["KeyError"] * 2]


def test_a_copy_of_a_world_is_the_same() -> None:
    world = World()
    assert copy.deepcopy(world) is world
