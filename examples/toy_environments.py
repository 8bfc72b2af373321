"""PPO, GRPO, REINFORCE or DPO on a random walk or a grid with obstacles, where the best return is known."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import torch
import tyro

import environments  # noqa: F401 - registers what it holds with gymnasium
from environments.grid_world import optimal_return
from grpo import (
    DPOConfig,
    Evaluate,
    GRPOConfig,
    GRPOTrainer,
    LinearSchedule,
    MonteCarlo,
    OnlineDPOTrainer,
    PPOConfig,
    PPOTrainer,
    ReferenceSync,
    ReinforceConfig,
    ReinforceTrainer,
    Run,
    Until,
    group_time_baseline,
)
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy, evaluate

ENVIRONMENTS = {"random-walk": ("anygrpo/RandomWalk-v0", 1.0), "grid": ("anygrpo/GridWorld-v0", optimal_return())}
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    algorithm: Literal["ppo", "grpo", "reinforce", "dpo"] = "ppo"
    """How to train."""
    environment: Literal["random-walk", "grid"] = "random-walk"
    """What to train on."""
    steps: int = 100_000
    """Environment steps to train on."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs/toy")
    """Folder for the runs, to be drawn by anygrpo plot."""


def build_ppo(name: str, seed: int, steps: int) -> tuple[Any, Any]:
    """With a critic, on fragments of 64 steps in each of 8 running environments.

    Where every episode is as good as can be, advantages are nothing but the critic's noise, and PPO scales them up to a
    standard deviation of 1: only a learning rate that falls to 0 lets the policy rest there.
    """
    sampler = FragmentSampler(gymnasium.make_vec(name, num_envs=8, vectorization_mode="sync"), num_steps=64, seed=seed)
    falling = LinearSchedule(start=LEARNING_RATE, end=0.0, num_steps=max(1, steps // (8 * 64)))
    config = PPOConfig(batch_size=128, learning_rate=falling, entropy_coefficient=0.01, seed=seed)
    return PPOTrainer(config, GymActorCritic(sampler, seed=seed), EnvironmentReward()), sampler.states


def build_from_episodes(name: str, algorithm: str, seed: int) -> tuple[Any, Any]:
    """Without a critic, on 32 whole episodes a step; GRPO and DPO play 8 from each start.

    GRPO credits each step against the others of its group at the same time. With the return of the whole episode, its
    usual credit, a walk that wanders before it wins is as good as one that does not; the discount tells them apart. DPO
    prefers the best episode of a group to the worst, and compares with the policy that played them.
    """
    policy = GymPolicy(EpisodeSampler(partial(gymnasium.make, name), num_envs=32), seed=seed)
    same: dict[str, Any] = {"learning_rate": LEARNING_RATE, "seed": seed}
    if algorithm == "dpo":
        dpo = DPOConfig(num_epochs_per_update=4, reference_sync=ReferenceSync(mixing=1.0, every=1), **same)
        trainer: Any = OnlineDPOTrainer(dpo, policy, EnvironmentReward(), copy.deepcopy(policy), group_size=8)
    elif algorithm == "reinforce":
        trainer = ReinforceTrainer(ReinforceConfig(entropy_coefficient=0.01, **same), policy, EnvironmentReward())
    else:
        grpo = GRPOConfig(
            group_size=8,
            batch_size=128,
            num_epochs_per_update=4,
            entropy_coefficient=0.01,
            loss_averaging="per_decision",
            advantage_normalization="per_step",
            **same,
        )
        estimator = MonteCarlo(discount=0.99, baseline=group_time_baseline)
        trainer = GRPOTrainer(grpo, policy, EnvironmentReward(), advantage_estimator=estimator)
    count = 32 if algorithm == "reinforce" else 4
    return trainer, lambda step: [100_000 * seed + count * step + start for start in range(count)]


def main(options: Options) -> None:
    torch.set_num_threads(1)
    algorithm, (name, best) = options.algorithm, ENVIRONMENTS[options.environment]
    for seed in range(options.seeds):
        if algorithm == "ppo":
            trainer, states = build_ppo(name, seed, options.steps)
        else:
            trainer, states = build_from_episodes(name, algorithm, seed)
        folder = options.output / f"{options.environment}-{algorithm}-{seed}"
        run = Run(trainer, states, folder=folder, callbacks=[Evaluate(partial(greedy_return, name), every=10)])
        run(Until(decisions=options.steps))
        reached = greedy_return(name, trainer.policy)["mean_return"]
        print(f"seed {seed}, {run.num_decisions:,} steps: the best return is {best:g}, reached was {reached:g}")
    print(f"curves: anygrpo plot {options.output}/{options.environment}-*")


def greedy_return(name: str, policy: Any) -> dict[str, float]:
    """The environments are deterministic: one episode that is played greedily is like any other."""
    return {"mean_return": evaluate(policy, gymnasium.make(name), 1).mean}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
