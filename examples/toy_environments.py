"""PPO, GRPO or REINFORCE on a random walk or a grid with obstacles, where the best return is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import tyro

import environments  # noqa: F401 - registers what it holds with gymnasium
from environments.grid_world import optimal_return
from grpo import (
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    Trainer,
)
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy
from learning import Advance, Run, learn, report, run_seeds, save_learning_curves

IDS = {"random-walk": "anygrpo/RandomWalk-v0", "grid": "anygrpo/GridWorld-v0"}
OPTIMAL_RETURNS = {"random-walk": 1.0, "grid": optimal_return()}
EPISODES_PER_UPDATE = 32


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    algorithm: Literal["ppo", "grpo", "reinforce"] = "ppo"
    """How to train."""
    environment: Literal["random-walk", "grid"] = "random-walk"
    """What to train on."""
    steps: int = 100_000
    """Environment steps to train on."""
    learning_rate: float = 3e-3
    """Learning rate."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs")
    """Folder for the figure."""


def train(options: Options, seed: int, advance: Advance) -> Run:
    """One training."""
    return {"ppo": train_ppo, "grpo": train_grpo, "reinforce": train_reinforce}[options.algorithm](
        options, seed, advance
    )


def train_ppo(options: Options, seed: int, advance: Advance) -> Run:
    """With a critic, on fragments of running environments."""
    envs = gymnasium.make_vec(IDS[options.environment], num_envs=8, vectorization_mode="sync")
    sampler = FragmentSampler(envs, num_steps=64, seed=seed)
    policy = GymActorCritic(sampler, seed=seed)
    config = PPOConfig(batch_size=128, learning_rate=options.learning_rate, entropy_coefficient=0.01, seed=seed)
    return finish(PPOTrainer(config, policy, EnvironmentReward()), policy, options, seed, advance)


def train_grpo(options: Options, seed: int, advance: Advance) -> Run:
    """Whole episodes in groups, which are compared with each other."""
    policy = GymPolicy(
        EpisodeSampler(partial(gymnasium.make, IDS[options.environment]), EPISODES_PER_UPDATE), seed=seed
    )
    config = GRPOConfig(
        group_size=8,
        batch_size=128,
        num_epochs_per_update=4,
        learning_rate=options.learning_rate,
        entropy_coefficient=0.01,
        loss_averaging="per_decision",
        seed=seed,
    )
    return finish(GRPOTrainer(config, policy, EnvironmentReward()), policy, options, seed, advance)


def train_reinforce(options: Options, seed: int, advance: Advance) -> Run:
    """Whole episodes, each credited for its own return."""
    policy = GymPolicy(
        EpisodeSampler(partial(gymnasium.make, IDS[options.environment]), EPISODES_PER_UPDATE), seed=seed
    )
    config = ReinforceConfig(learning_rate=options.learning_rate, entropy_coefficient=0.01, seed=seed)
    return finish(ReinforceTrainer(config, policy, EnvironmentReward()), policy, options, seed, advance)


def episode_sampler(options: Options) -> EpisodeSampler:
    """Plays whole episodes side by side."""
    return EpisodeSampler(partial(gymnasium.make, IDS[options.environment]), EPISODES_PER_UPDATE)


def finish(
    trainer: Trainer[Any, Any],
    policy: GymPolicy,
    options: Options,
    seed: int,
    advance: Advance,
) -> Run:
    """Train to the end."""
    starts = count(seed * options.steps)
    num_states = EPISODES_PER_UPDATE // trainer.config.group_size
    sampler = policy.sampler
    return learn(
        trainer,
        policy,
        lambda: sampler.states if isinstance(sampler, FragmentSampler) else [next(starts) for _ in range(num_states)],
        gymnasium.make(IDS[options.environment]),
        advance,
        seed=seed,
        max_steps=options.steps,
    )


def main(options: Options) -> None:
    """Train with every seed, and show what was learnt."""
    name = {"ppo": "PPO", "grpo": "GRPO", "reinforce": "REINFORCE"}[options.algorithm]
    best = OPTIMAL_RETURNS[options.environment]
    runs = {name: run_seeds(partial(train, options), options.seeds, name)}
    title = f"{name} on the {options.environment.replace('-', ' ')}"
    report(f"{title}: the best return is {best:g}", runs, best)
    file = f"toy_{options.environment}_{options.algorithm}.png"
    save_learning_curves(options.output / file, title, runs, best)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
