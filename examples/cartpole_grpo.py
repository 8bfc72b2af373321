"""GRPO on CartPole, without a critic, beside PPO, with one.

GRPO plays groups of whole episodes from the same start and credits an episode, with all its steps, for how much longer
it lasted than the others of its group. PPO plays short fragments of running environments and has a critic to tell what
would have come; its settings are those of rl-zoo3, whose learning rate and clip range fall to 0 over 100,000 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import tyro

from grpo import GRPOConfig, GRPOTrainer, LinearSchedule, PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy
from learning import Advance, Run, learn, report, run_seeds, save_learning_curves

BAR = 475.0
PPO_ENVS, PPO_STEPS, PPO_ANNEALED_OVER = 8, 32, 100_000


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    steps: int = 100_000
    """Environment steps that GRPO trains on."""
    groups: int = 4
    """Starts in a step of GRPO."""
    group_size: int = 8
    """Episodes from each start."""
    learning_rate: float = 1e-3
    """Learning rate of GRPO."""
    ppo_steps: int = 30_000
    """Environment steps that PPO trains on; 0 leaves it out."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs")
    """Folder for the figure."""


def make_environment() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1")


def train_grpo(options: Options, seed: int, advance: Advance) -> Run:
    """One training with GRPO."""
    sampler = EpisodeSampler(make_environment, options.groups * options.group_size)
    policy = GymPolicy(sampler, seed=seed)
    config = GRPOConfig(
        group_size=options.group_size,
        learning_rate=options.learning_rate,
        batch_size=256,
        num_epochs_per_update=10,
        max_grad_norm=0.5,
        loss_averaging="per_decision",
        seed=seed,
    )
    trainer = GRPOTrainer(config, policy, EnvironmentReward())
    starts = count(seed * options.steps)
    return learn(
        trainer,
        policy,
        lambda: [next(starts) for _ in range(options.groups)],
        make_environment(),
        advance,
        seed=seed,
        max_steps=options.steps,
    )


def train_ppo(options: Options, seed: int, advance: Advance) -> Run:
    """One training with PPO."""
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=PPO_ENVS), PPO_STEPS, seed=seed)
    policy = GymActorCritic(sampler, seed=seed)
    num_updates = PPO_ANNEALED_OVER // (PPO_ENVS * PPO_STEPS)
    clip = LinearSchedule(start=0.2, end=0.0, num_steps=num_updates)
    config = PPOConfig(
        batch_size=256,
        num_epochs_per_update=20,
        learning_rate=LinearSchedule(start=1e-3, end=0.0, num_steps=num_updates),
        clip_low=clip,
        clip_high=clip,
        discount=0.98,
        gae_lambda=0.8,
        seed=seed,
    )
    trainer = PPOTrainer(config, policy, EnvironmentReward())
    return learn(
        trainer,
        policy,
        lambda: sampler.states,
        make_environment(),
        advance,
        seed=seed,
        max_steps=options.ppo_steps,
    )


def main(options: Options) -> None:
    """Train with every seed, and show what was learnt."""
    runs = {"GRPO": run_seeds(partial(train_grpo, options), options.seeds, "GRPO")}
    if options.ppo_steps > 0:
        runs["PPO"] = run_seeds(partial(train_ppo, options), options.seeds, "PPO")
    report("CartPole-v1, greedy policy on 100 fresh episodes", runs, BAR)
    save_learning_curves(options.output / "cartpole_grpo.png", "GRPO and PPO on CartPole-v1", runs, BAR)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
