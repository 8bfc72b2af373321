"""REINFORCE on CartPole: whole episodes, returns from each step on, one update for every few of them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import gymnasium
import torch
import tyro

from grpo import Evaluate, LinearSchedule, ReinforceConfig, ReinforceTrainer, Run, Until
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, GymPolicy, evaluate

EPISODES_PER_UPDATE = 10


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    episodes: int = 1500
    """Episodes to train on, in updates of 10."""
    learning_rate: float = 1e-2
    """Learning rate at the start; it falls to 0 in equal parts."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs/cartpole")
    """Folder for the runs, to be drawn by anygrpo plot."""


def train(options: Options, seed: int) -> str:
    """One training; what came of it."""
    torch.set_num_threads(1)
    policy = GymPolicy(EpisodeSampler(partial(gymnasium.make, "CartPole-v1"), EPISODES_PER_UPDATE), seed=seed)
    num_updates = options.episodes // EPISODES_PER_UPDATE
    schedule = LinearSchedule(start=options.learning_rate, end=0.0, num_steps=num_updates)
    trainer = ReinforceTrainer(ReinforceConfig(learning_rate=schedule, seed=seed), policy, EnvironmentReward())

    def starts(step: int) -> list[int]:
        first = seed * options.episodes + step * EPISODES_PER_UPDATE
        return list(range(first, first + EPISODES_PER_UPDATE))

    environment = gymnasium.make("CartPole-v1")
    evaluation = Evaluate(
        lambda policy: {"mean_return": evaluate(policy, environment, 20, seed=1_000_000).mean}, every=10
    )
    run = Run(trainer, starts, folder=options.output / f"REINFORCE-{seed}", callbacks=[evaluation])
    run(Until(steps=num_updates))
    result = evaluate(policy, environment, 100, seed=2_000_000)
    return f"REINFORCE, seed {seed}, {run.num_decisions:,} steps: {result}"


def main(options: Options) -> None:
    """Train with every seed, in a process each, and print what was learnt on 100 fresh episodes."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for result in processes.map(partial(train, options), range(options.seeds)):
            print(result, flush=True)
    print(f"curves: anygrpo plot {options.output}/*")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
