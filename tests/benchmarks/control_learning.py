"""What PPO learns: this library beside Stable-Baselines3, with the same settings and seeds, in one run.

The settings are those of rl-zoo3 but for two things: its state-dependent exploration on Pendulum, which is left out on
both sides, and the number of steps on Acrobot, which needs far fewer. Observations of Acrobot are normalised by their
running statistics, rewards are not. Each trained policy plays 100 fresh episodes, greedily. The last line holds the
mean returns of every seed, their difference and its standard error as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gymnasium
import numpy as np
import torch
import tyro

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, evaluate
from stable_baselines3_ppo import greedy_return, their_environments, their_ppo

EPISODES = 100
EVALUATION_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Task:
    """An environment and how to train in it."""

    environment: str
    total_steps: int
    num_envs: int
    num_steps: int
    num_epochs: int
    discount: float
    gae_lambda: float
    learning_rate: float
    normalize_observations: bool
    batch_size: int = 64


ACROBOT = Task(
    environment="Acrobot-v1",
    total_steps=200_000,
    num_envs=16,
    num_steps=256,
    num_epochs=4,
    discount=0.99,
    gae_lambda=0.94,
    learning_rate=3e-4,
    normalize_observations=True,
)
PENDULUM = Task(
    environment="Pendulum-v1",
    total_steps=100_000,
    num_envs=4,
    num_steps=1024,
    num_epochs=10,
    discount=0.9,
    gae_lambda=0.95,
    learning_rate=1e-3,
    normalize_observations=False,
)


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    seeds: int = 10
    """Trainings of each."""


def config_of(task: Task, seed: int) -> PPOConfig:
    """The settings of both."""
    return PPOConfig(
        batch_size=task.batch_size,
        num_epochs_per_update=task.num_epochs,
        discount=task.discount,
        gae_lambda=task.gae_lambda,
        learning_rate=task.learning_rate,
        seed=seed,
    )


def ours(task: Task, seed: int) -> float:
    """Mean return of this library's policy."""
    envs = gymnasium.make_vec(task.environment, num_envs=task.num_envs, vectorization_mode="sync")
    sampler = FragmentSampler(envs, task.num_steps, seed=seed)
    policy = GymActorCritic(sampler, normalize_observations=task.normalize_observations, seed=seed)
    trainer = PPOTrainer(config_of(task, seed), policy, EnvironmentReward())
    steps = 0
    while steps < task.total_steps:
        steps += int(trainer.step(sampler.states)["num_decisions"])
    return evaluate(policy, gymnasium.make(task.environment), EPISODES, seed=EVALUATION_SEED).mean


def theirs(task: Task, seed: int) -> float:
    """Mean return of Stable-Baselines3's policy."""
    environment, config = partial(gymnasium.make, task.environment), config_of(task, seed)
    envs = their_environments(environment, task.num_envs, config, normalize_observations=task.normalize_observations)
    model = their_ppo(config, envs, task.num_steps)
    model.learn(task.total_steps)
    return greedy_return(model, environment(), EPISODES, EVALUATION_SEED)


def main(options: Options) -> None:
    """Train on both tasks with every seed, and print."""
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    for task in (ACROBOT, PENDULUM):
        contenders: dict[str, Callable[[Task, int], float]] = {"ours": ours, "SB3": theirs}
        means: dict[str, list[float]] = {name: [] for name in contenders}
        for seed in range(options.seeds):
            for name, train in contenders.items():
                means[name].append(round(train(task, seed), 1))
                print(f"{task.environment}, seed {seed}, {name}: {means[name][-1]:.1f}", flush=True)
        mine, other = np.array(means["ours"]), np.array(means["SB3"])
        error = math.sqrt((mine.var(ddof=1) + other.var(ddof=1)) / options.seeds)
        results[task.environment] = means | {
            "difference": round(float(mine.mean() - other.mean()), 1),
            "standard error": round(error, 1),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
