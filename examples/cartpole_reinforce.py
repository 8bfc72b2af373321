"""REINFORCE on CartPole: whole episodes, returns from each step on, one update for every few of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import tyro

from grpo import LinearSchedule, ReinforceConfig, ReinforceTrainer
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, GymPolicy
from learning import Advance, Run, learn, report, run_seeds, save_learning_curves

BAR = 475.0


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    episodes: int = 1500
    """Episodes to train on."""
    episodes_per_update: int = 10
    """Episodes between two updates."""
    learning_rate: float = 1e-2
    """Learning rate at the start; it falls to 0 in equal parts."""
    discount: float = 0.99
    """How much a reward counts one step later."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs")
    """Folder for the figure."""


def make_environment() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1")


def train(options: Options, seed: int, advance: Advance) -> Run:
    """One training."""
    policy = GymPolicy(EpisodeSampler(make_environment, options.episodes_per_update), seed=seed)
    num_updates = options.episodes // options.episodes_per_update
    config = ReinforceConfig(
        discount=options.discount,
        learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=num_updates),
        seed=seed,
    )
    trainer = ReinforceTrainer(config, policy, EnvironmentReward())
    starts = count(seed * options.episodes)
    return learn(
        trainer,
        policy,
        lambda: [next(starts) for _ in range(options.episodes_per_update)],
        make_environment(),
        advance,
        seed=seed,
        max_episodes=num_updates * options.episodes_per_update,
    )


def main(options: Options) -> None:
    """Train with every seed, and show what was learnt."""
    runs = {"REINFORCE": run_seeds(partial(train, options), options.seeds, "REINFORCE")}
    report("CartPole-v1, greedy policy on 100 fresh episodes", runs, BAR)
    save_learning_curves(options.output / "cartpole_reinforce.png", "REINFORCE on CartPole-v1", runs, BAR)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
