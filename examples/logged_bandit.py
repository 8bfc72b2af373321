"""A bandit in production: learn from the log of an old policy, estimate what that is worth, and go on while it is live.

A log has contexts, offers, how probable each was, and whether it was taken. REINFORCE learns from it: a sampler hands
out its rows, and the loss is weighted by the new probability over the logged one. Other logs tell what the new policy
is worth: by inverse propensities (IPS), self-normalised (Swaminathan and Joachims 2015), doubly robust around a
regression (Dudik et al. 2011, arXiv:1103.4601). The truth is known, and a table tells how many 95% intervals cover it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor, nn

from grpo import ImportanceCorrection, ReinforceConfig, ReinforceTrainer
from grpo_adapters.bandit import ContextualSoftmaxPolicy
from offers import DECISIONS, FEATURES, OFFERS, Log, World, draw_log

LOGS = 200


@dataclass(frozen=True)
class Options:
    steps: int = 300
    """Steps of 200 decisions, first of the log and then live."""
    seed: int = 0
    """Of everything that is random."""
    figure: Path | None = None
    """File for a picture of the estimates from one log."""


class Replay(ContextualSoftmaxPolicy):
    """A policy whose states and actions are rows of a log; the sampler and the reward model of that log besides."""

    log: Log

    def sample(self, policy: Any, states: Tensor, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return states.unsqueeze(1)

    def get_importance_correction(self) -> ImportanceCorrection:
        return ImportanceCorrection(max_ratio=20.0)

    def compute_rewards(self, states: Tensor, actions: Tensor) -> Tensor:
        return self.log.rewards[actions]

    def encode_actions(self, states: Any, actions: Any) -> Log:
        log = self.log
        return Log(*(own[actions] for own in (log.observations, log.actions, log.sampling_log_probs, log.rewards)))


def regress(log: Log) -> Tensor:
    """Least squares, linear in the context for each offer, [features, offers]."""
    design = log.observations.unsqueeze(2) * nn.functional.one_hot(log.actions, OFFERS).unsqueeze(1)
    return torch.reshape(torch.linalg.lstsq(design.flatten(1), log.rewards.unsqueeze(1)).solution, (FEATURES, OFFERS))


def estimates(log: Log, policy: ContextualSoftmaxPolicy, regression: Tensor) -> dict[str, Tensor]:
    """Terms [decisions] whose mean is the value of the policy, by each way to estimate it."""
    weights = (policy.evaluate_actions(log).log_probs - log.sampling_log_probs).exp()
    predicted, rewards = log.observations @ regression, log.rewards
    by_regression = (policy.log_probabilities(log.observations).exp() * predicted).sum(1)
    normalised = (weights * rewards).sum() / weights.sum()
    return {
        "mean of the log": rewards,
        "regression": by_regression,
        "IPS": weights * rewards,
        "self-normalised": normalised + weights / weights.mean() * (rewards - normalised),
        "doubly robust": by_regression + weights * (rewards - predicted[torch.arange(DECISIONS), log.actions]),
    }


@torch.no_grad()
def main(options: Options) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    warnings.filterwarnings("ignore", "the log-probs that")  # are another policy's, which is the point here
    world, network = World(), nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, OFFERS))
    replay, live = Replay(network), ContextualSoftmaxPolicy(network)
    replay.log, contexts = draw_log(world), torch.rand(200_000, FEATURES)

    def value(probabilities: Tensor) -> float:
        return (probabilities * world.taken(contexts)).sum(1).mean().item()

    config = ReinforceConfig(learning_rate=0.01, entropy_coefficient=0.03)
    trainer = ReinforceTrainer(config, replay, replay, sampler=replay)
    for _ in range(options.steps):
        trainer.step(torch.randint(DECISIONS, (200,)))
    truth, regression = value(live.log_probabilities(contexts).exp()), regress(replay.log)
    told = [estimates(draw_log(world), live, regression) for _ in range(LOGS)]
    online = ReinforceTrainer(config, live, world)
    for _ in range(options.steps):
        online.step(torch.rand(200, FEATURES))
    old, after = value(world.old_policy(contexts)), value(live.log_probabilities(contexts).exp())
    best = world.taken(contexts).amax(1).mean()
    print(
        f"taken: by the old policy {old:.3f}, learnt from its log {truth:.3f}, then live {after:.3f}, best {best:.3f}"
    )
    print(f"{'estimate':15}  mean of {LOGS} logs  off by  intervals that cover {truth:.3f}")
    _, axes = plt.subplots(figsize=(3.6, 2.7), layout="constrained")
    for place, name in enumerate(told[0]):
        terms = torch.stack([own[name] for own in told])
        means, halves = terms.mean(1), 1.96 * terms.std(1) / DECISIONS**0.5
        off, covered = (means - truth).square().mean().sqrt(), ((means - truth).abs() <= halves).float().mean()
        print(f"{name:15} {means.mean():17.3f} {off:7.3f} {covered:27.1%}")
        axes.errorbar(means[0], place, xerr=halves[0], fmt="o", capsize=3, color="#0072B2")
    axes.axvline(truth, color="black", linestyle=":")
    axes.set(yticks=range(len(told[0])), yticklabels=told[0], xlabel="value, from one log")
    if options.figure:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        plt.savefig(options.figure, transparent=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
