"""GRPO on CartPole, without a critic, beside PPO, with one.

GRPO plays groups of whole episodes from the same start and credits an episode, with all its steps, for how much longer
it lasted than the others of its group. PPO plays short fragments of running environments and has a critic to tell what
would have come; its settings are those of rl-zoo3, whose learning rate and clip range fall to 0 over 100,000 steps.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import torch
import tyro

from grpo import Evaluate, GRPOConfig, GRPOTrainer, LinearSchedule, PPOConfig, PPOTrainer, Run, Until
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy, evaluate

make_environment = partial(gymnasium.make, "CartPole-v1")


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    steps: int = 100_000
    """Environment steps that GRPO trains on."""
    ppo_steps: int = 30_000
    """Environment steps that PPO trains on; 0 leaves it out."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs/cartpole")
    """Folder for the runs, to be drawn by anygrpo plot."""


def build_grpo(seed: int) -> tuple[Any, Any]:
    """Groups of 8 episodes from each of 4 starts."""
    config = GRPOConfig(
        group_size=8,
        learning_rate=1e-3,
        batch_size=256,
        num_epochs_per_update=10,
        max_grad_norm=0.5,
        loss_averaging="per_decision",
        seed=seed,
    )
    policy = GymPolicy(EpisodeSampler(make_environment, num_envs=32), seed=seed)
    trainer = GRPOTrainer(config, policy, EnvironmentReward())
    return trainer, lambda step: [100_000 * seed + 4 * step + start for start in range(4)]


def build_ppo(seed: int) -> tuple[Any, Any]:
    """8 environments side by side, 32 steps of each between updates."""
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=8), num_steps=32, seed=seed)
    num_updates = 100_000 // (8 * 32)
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
    return PPOTrainer(config, GymActorCritic(sampler, seed=seed), EnvironmentReward()), sampler.states


def train(options: Options, name: str, seed: int) -> str:
    """One training; what came of it."""
    torch.set_num_threads(1)
    trainer, states = build_grpo(seed) if name == "GRPO" else build_ppo(seed)
    environment = make_environment()
    evaluation = Evaluate(
        lambda policy: {"mean_return": evaluate(policy, environment, 20, seed=1_000_000).mean},
        every=1 if name == "GRPO" else 6,
    )
    run = Run(trainer, states, folder=options.output / f"{name}-{seed}", callbacks=[evaluation])
    run(Until(decisions=options.steps if name == "GRPO" else options.ppo_steps))
    result = evaluate(trainer.policy, environment, 100, seed=2_000_000)
    return f"{name}, seed {seed}, {run.num_decisions:,} steps: {result}"


def main(options: Options) -> None:
    """Train with every seed, in a process each, and print what was learnt on 100 fresh episodes."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for name in ("GRPO", "PPO") if options.ppo_steps > 0 else ("GRPO",):
            for result in processes.map(partial(train, options, name), range(options.seeds)):
                print(result, flush=True)
    print(f"curves: anygrpo plot {options.output}/*")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
