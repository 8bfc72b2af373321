"""REINFORCE, PPO-style clipping, GRPO and DPO on the same bandit, side by side.

The first three are the same trainer with other parts: what counts as an advantage, what is minimised, how often a batch
is used. PPO makes eight updates of a batch where the others make one, and is that much ahead at first.

DPO sees no rewards but pairs. The pulls of a step are dealt into groups of four, and the best pull of a group is
preferred to the worst: four pairs of sixteen pulls. By how much it was better is not told, and since rewards are noisy
a pair may be the wrong way round. A group is left out where both are the same arm, as they mostly are once the policy
has settled.

The table shows a moving average of the reward of each, and its mean over bandits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from grpo import (
    DPOConfig,
    DPOTrainer,
    Experience,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    PreferenceCollector,
    ScoreFunctionSurrogate,
)
from grpo_adapters.bandit import GaussianRewards, SoftmaxPolicy, StationaryBandit, seeded_generator

PAIRED_GROUP_SIZE = 4


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    num_arms: int = 10
    """Arms of the bandit."""
    num_steps: int = 200
    """Steps of each algorithm."""
    pulls_per_step: int = 16
    """Pulls between two updates; the group size of GRPO; DPO makes groups of 4 of them."""
    learning_rate: float = 0.05
    """Learning rate of all four."""
    reward_std: float = 1.0
    """Standard deviation of the rewards of an arm; the means of the arms have one of 1."""
    window: int = 20
    """Steps that a moving average spans."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 10
    """Bandits, each with means of its own."""


def plain_returns(experience: Experience) -> Tensor:
    """REINFORCE's advantage: the return itself, without any baseline."""
    return experience.sample_rewards.values


class RunningBaseline:
    """PPO's advantage where there is a single state: reward minus a value that is learnt, in standard deviations."""

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate
        self.value = 0.0

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the samples, [N]."""
        rewards = experience.sample_rewards.values
        errors = rewards - self.value
        self.value += self.rate * errors.mean().item()
        return errors / errors.std().clamp(min=torch.finfo(errors.dtype).tiny)


def build_reinforce(options: Options, policy: SoftmaxPolicy, bandit: StationaryBandit) -> GRPOTrainer[Any, Any]:
    """One update a batch, by the score function."""
    return GRPOTrainer(
        GRPOConfig(group_size=options.pulls_per_step, learning_rate=options.learning_rate),
        policy,
        bandit,
        advantage_estimator=plain_returns,
        objective=GRPOObjective(surrogate=ScoreFunctionSurrogate()),
    )


def build_ppo(options: Options, policy: SoftmaxPolicy, bandit: StationaryBandit) -> GRPOTrainer[Any, Any]:
    """Four passes over a batch in two minibatches, kept near by clipping."""
    config = GRPOConfig(
        group_size=options.pulls_per_step,
        batch_size=options.pulls_per_step // 2,
        num_epochs_per_update=4,
        learning_rate=options.learning_rate,
        clip_low=0.2,
        clip_high=0.2,
    )
    return GRPOTrainer(config, policy, bandit, advantage_estimator=RunningBaseline())


def build_grpo(options: Options, policy: SoftmaxPolicy, bandit: StationaryBandit) -> GRPOTrainer[Any, Any]:
    """One update a batch, by rewards relative to the group."""
    return GRPOTrainer(
        GRPOConfig(group_size=options.pulls_per_step, learning_rate=options.learning_rate), policy, bandit
    )


class Learner(Protocol):
    """Pulls arms and learns from it."""

    def step(self, states: list[str], /) -> dict[str, float]:
        """Metrics of a step, among them ``reward``, the mean over its pulls."""
        ...


class PreferenceRounds:
    """Deals the pulls of a step into groups, and lets DPO learn from a pair of each.

    The reference policy is the one at the start, uniform over the arms.
    """

    def __init__(self, options: Options, policy: SoftmaxPolicy, bandit: StationaryBandit) -> None:
        self.num_groups = options.pulls_per_step // PAIRED_GROUP_SIZE
        self.collector = PreferenceCollector(policy, bandit, group_size=PAIRED_GROUP_SIZE)
        self.trainer = DPOTrainer(DPOConfig(learning_rate=options.learning_rate), policy, copy.deepcopy(policy))

    def step(self, states: list[str]) -> dict[str, float]:
        """Pull, and update the policy where there is a pair."""
        collected = self.collector.collect(states * self.num_groups)
        if collected.preferences:
            self.trainer.step(collected.preferences)
        return collected.metrics


ALGORITHMS: dict[str, Callable[[Options, SoftmaxPolicy, StationaryBandit], Learner]] = {
    "REINFORCE": build_reinforce,
    "PPO (clip)": build_ppo,
    "GRPO": build_grpo,
    "DPO": PreferenceRounds,
}


def arm_means(seed: int, options: Options) -> Tensor:
    """Means of a bandit's arms, drawn from a standard normal distribution, [K]."""
    return torch.randn(options.num_arms, generator=seeded_generator("arms", seed))


def learning_curve(name: str, seed: int, options: Options) -> list[float]:
    """Mean reward of each step."""
    means = arm_means(seed, options)
    policy = SoftmaxPolicy(options.num_arms, generator=seeded_generator("policy", seed))
    bandit = StationaryBandit(means, GaussianRewards(options.reward_std), seed=seed)
    learner = ALGORITHMS[name](options, policy, bandit)
    return [learner.step(["the only state"])["reward"] for _ in range(options.num_steps)]


def main(options: Options) -> None:
    """Run all and print their moving averages side by side."""
    pulls = options.pulls_per_step
    if pulls < PAIRED_GROUP_SIZE or pulls % PAIRED_GROUP_SIZE != 0:
        raise SystemExit(f"--pulls-per-step is {pulls}, expected a multiple of {PAIRED_GROUP_SIZE}: DPO's groups")
    if not 1 <= options.window <= options.num_steps:
        raise SystemExit(f"--window is {options.window}, expected 1 to the {options.num_steps} of --num-steps")
    torch.set_num_threads(1)
    runs = [(name, seed) for name in ALGORITHMS for seed in range(options.seeds)]
    curves: dict[str, list[list[float]]] = {name: [] for name in ALGORITHMS}
    for name, seed in track(runs, description="learning"):
        curves[name].append(learning_curve(name, seed, options))
    averages = {
        name: torch.tensor(values).mean(0).unfold(0, options.window, options.window).mean(1)
        for name, values in curves.items()
    }
    best = torch.stack([arm_means(seed, options).max() for seed in range(options.seeds)]).mean().item()
    table = Table(title=f"Reward, mean over {options.seeds} bandits and {options.window} steps")
    for column in ("steps", *averages, "best arm"):
        table.add_column(column, justify="right")
    for index in range(options.num_steps // options.window):
        span = f"{index * options.window + 1}-{(index + 1) * options.window}"
        table.add_row(span, *(f"{average[index].item():.3f}" for average in averages.values()), f"{best:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
