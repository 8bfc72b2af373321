"""REINFORCE, PPO-style clipping, GRPO and DPO on the same bandit, side by side.

The first three are the same trainer with other parts. PPO makes eight updates of a batch where the others make one, and
is that much ahead at first.

DPO sees no rewards but pairs. The pulls of a step are dealt into groups of four, and the best pull of a group is
preferred to the worst. By how much it was better is not told, and since rewards are noisy a pair may be the wrong way
round. A group is left out where both are the same arm, as they mostly are once the policy has settled.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from grpo import (
    Callback,
    DPOConfig,
    Experience,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    OnlineDPOTrainer,
    Run,
    ScoreFunctionSurrogate,
    Until,
)
from grpo_adapters.bandit import GaussianRewards, SoftmaxPolicy, StationaryBandit, seeded_generator

NUM_ARMS, PULLS, WINDOW = 10, 16, 20


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    num_steps: int = 200
    """Steps of each algorithm, of 16 pulls each."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 10
    """Bandits, each with means of its own."""


def plain_returns(experience: Experience) -> Tensor:
    """REINFORCE's advantage: the return itself, without any baseline."""
    return experience.sample_rewards.values


class RunningBaseline:
    """PPO's advantage where there is a single state: reward minus a value that is learnt, in standard deviations."""

    value = 0.0

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the samples, [N]."""
        errors = experience.sample_rewards.values - self.value
        self.value += 0.1 * errors.mean().item()
        return errors / errors.std().clamp(min=torch.finfo(errors.dtype).tiny)


def build(name: str, policy: SoftmaxPolicy, bandit: StationaryBandit) -> tuple[Any, list[str]]:
    """The trainer, and the states of each of its steps."""
    state = "the only state"
    if name == "DPO":
        dpo = DPOConfig(learning_rate=0.05)
        return OnlineDPOTrainer(dpo, policy, bandit, copy.deepcopy(policy), group_size=4), [state] * (PULLS // 4)
    config = GRPOConfig(group_size=PULLS, learning_rate=0.05)
    if name == "REINFORCE":
        objective = GRPOObjective(surrogate=ScoreFunctionSurrogate())
        return GRPOTrainer(config, policy, bandit, advantage_estimator=plain_returns, objective=objective), [state]
    if name == "GRPO":
        return GRPOTrainer(config, policy, bandit), [state]
    several = config.model_copy(update={"batch_size": PULLS // 2, "num_epochs_per_update": 4})
    return GRPOTrainer(several, policy, bandit, advantage_estimator=RunningBaseline()), [state]


class Rewards(Callback):
    """Notes the mean reward of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        self.values.append(metrics["reward"])


def learning_curve(name: str, seed: int, num_steps: int) -> list[float]:
    """Mean reward of each step."""
    policy = SoftmaxPolicy(NUM_ARMS, generator=seeded_generator("policy", seed))
    trainer, states = build(name, policy, StationaryBandit(arm_means(seed), GaussianRewards(1.0), seed=seed))
    rewards = Rewards()
    Run(trainer, states, callbacks=[rewards])(Until(steps=num_steps))
    return rewards.values


def arm_means(seed: int) -> Tensor:
    """Means of a bandit's arms, drawn from a standard normal distribution, [K]."""
    return torch.randn(NUM_ARMS, generator=seeded_generator("arms", seed))


def main(options: Options) -> None:
    """Run all, and print their rewards side by side."""
    torch.set_num_threads(1)
    seeds, names = range(options.seeds), ("REINFORCE", "PPO (clip)", "GRPO", "DPO")
    curves = [torch.tensor([learning_curve(name, seed, options.num_steps) for seed in seeds]).mean(0) for name in names]
    best = sum(arm_means(seed).max().item() for seed in seeds) / options.seeds
    print(f"mean reward over {options.seeds} bandits and {WINDOW} steps; the best arms give {best:.3f}")
    print(f"{'steps':9}", *(f"{name:>10}" for name in names))
    for first in range(0, options.num_steps, WINDOW):
        means = (curve[first : first + WINDOW].mean().item() for curve in curves)
        print(f"{f'{first + 1}-{first + WINDOW}':9}", *(f"{mean:10.3f}" for mean in means))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
