"""The example of Ray trains on a cluster of this machine, as one process does, and lives through what fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

import ray_train
from cluster.fallible import MortalPlayer, Trouble
from grpo import GRPOTrainer
from grpo_adapters.gym import GymPolicy
from ray_actors import ActorReward, Actors, ActorSampler
from ray_train import Judge, Player

EXAMPLE = Path(ray_train.__file__)
STEPS = 6
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Of as many CPUs on paper as all actors of a test want at once; its workers import what this process can."""
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


class PlaysHere:
    """A sampler that does in this process what actors do elsewhere."""

    def sample(self, policy: GymPolicy, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        player = Player()
        return [player.play(policy.state_dict(), state, num_actions_per_state) for state in states]


class JudgesHere(ActorReward):
    """A reward model that does in this process what actors do elsewhere."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def compute_rewards(self, states: Any, actions: Any) -> torch.Tensor:
        return Judge().score(states, actions)


def trained(reward_model: Any, sampler: Any) -> dict[str, torch.Tensor]:
    """The weights after a few steps in this process alone."""
    policy = ray_train.make_policy(seed=0)
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(ray_train.make_config(seed=0), policy, reward_model, sampler=sampler)
    for step in range(STEPS):
        trainer.step(ray_train.states_of(step, seed=0))
    return {name: tensor.detach().clone() for name, tensor in policy.get_parameters().items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return trained(JudgesHere(), PlaysHere())


def test_actors_play_and_judge_as_this_process_does(cluster: None, expected: dict[str, torch.Tensor]) -> None:
    players, judges = Actors(Player, count=2, timeout=120), Actors(Judge, count=2, timeout=120)
    found = trained(ActorReward(judges), ActorSampler(players))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_actor_that_is_killed_is_replaced(cluster: None, expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    note = tmp_path / "kill one"
    note.touch()
    players = Actors(MortalPlayer, note, count=2, timeout=120)
    found = trained(JudgesHere(), ActorSampler(players))
    assert not note.exists()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("die", RuntimeError, "an actor of Trouble is gone for good, at play; Ray starts it anew 1 times at the most"),
        ("hang", TimeoutError, "Trouble.play has answered 0 of 1 calls within 15 s: one hangs"),
        ("raise", ArithmeticError, "the engine has no fuel"),
    ],
)
def test_what_cannot_be_mended_is_named(cluster: None, how: str, kind: type[Exception], message: str) -> None:
    actors = Actors(Trouble, count=1, timeout=15 if how == "hang" else 120, restarts=1)
    with pytest.raises(kind, match=re.escape(message)):
        ActorSampler(actors).sample(ray_train.make_policy(seed=0), [how], 1)


def kill_second_worker(example: subprocess.Popen[str], metrics: Path) -> None:
    """In the midst of the training, by the process that Ray tells of."""
    assert example.stdout is not None
    found = next(filter(None, (re.search(r"pid=(\d+)\) world_rank=1", line) for line in example.stdout)))
    while not metrics.exists() or not metrics.read_text():
        assert example.poll() is None
        time.sleep(0.05)
    os.kill(int(found[1]), signal.SIGKILL)


def test_two_workers_of_which_one_is_killed_train_as_one_process(
    expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    options = ["--workers", "2", "--players", "1", "--steps", str(STEPS), "--output", str(tmp_path)]
    command = [sys.executable, str(EXAMPLE), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as example:
        kill_second_worker(example, tmp_path / "run" / "metrics.jsonl")
        printed, _ = example.communicate(timeout=300)
    assert example.returncode == 0, printed
    assert printed.count(") world_rank=1") == 1  # once more
    assert re.search(r"2 workers: [\d.]+ ± [\d.]+ over 100 episodes", printed)
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
