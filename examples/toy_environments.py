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
    LinearSchedule,
    MonteCarlo,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    Trainer,
    group_time_baseline,
)
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy
from learning import Advance, Run, learn, report, run_seeds, save_learning_curves

IDS = {"random-walk": "anygrpo/RandomWalk-v0", "grid": "anygrpo/GridWorld-v0"}
OPTIMAL_RETURNS = {"random-walk": 1.0, "grid": optimal_return()}
EPISODES_PER_UPDATE = 32
PPO_ENVS, PPO_STEPS = 8, 64


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
    """Learning rate; that of PPO falls to 0."""
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
    """With a critic, on fragments of running environments.

    Where every episode is as good as can be, advantages are nothing but the critic's noise, and PPO scales them up to a
    standard deviation of 1: only a learning rate that falls to 0 lets the policy rest there.
    """
    envs = gymnasium.make_vec(IDS[options.environment], num_envs=PPO_ENVS, vectorization_mode="sync")
    sampler = FragmentSampler(envs, num_steps=PPO_STEPS, seed=seed)
    policy = GymActorCritic(sampler, seed=seed)
    num_updates = max(1, options.steps // (PPO_ENVS * PPO_STEPS))
    config = PPOConfig(
        batch_size=128,
        learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=num_updates),
        entropy_coefficient=0.01,
        seed=seed,
    )
    return finish(PPOTrainer(config, policy, EnvironmentReward()), policy, options, seed, advance)


def train_grpo(options: Options, seed: int, advance: Advance) -> Run:
    """Whole episodes in groups, each step credited against the others of its group at the same time.

    With the return of the whole episode, GRPO's usual credit, a walk that wanders before it wins is as good as one that
    does not; the discount tells them apart.
    """
    policy = GymPolicy(episode_sampler(options), seed=seed)
    config = GRPOConfig(
        group_size=8,
        batch_size=128,
        num_epochs_per_update=4,
        learning_rate=options.learning_rate,
        entropy_coefficient=0.01,
        loss_averaging="per_decision",
        advantage_normalization="per_step",
        seed=seed,
    )
    estimator = MonteCarlo(discount=0.99, baseline=group_time_baseline)
    trainer = GRPOTrainer(config, policy, EnvironmentReward(), advantage_estimator=estimator)
    return finish(trainer, policy, options, seed, advance)


def train_reinforce(options: Options, seed: int, advance: Advance) -> Run:
    """Whole episodes, each step credited for what came after it."""
    policy = GymPolicy(episode_sampler(options), seed=seed)
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
