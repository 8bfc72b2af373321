"""How far rollouts agree on where a policy is to go, by what their decisions are compared with.

A policy that is half trained on LunarLander plays rollouts that have nothing in common. Each gives a policy gradient
by each kind of credit; what is printed is the mean cosine between the gradients of two rollouts, 1 where there is no
noise. The last line holds the cosines as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import mean
from typing import Any

import torch
import tyro
from torch import Tensor

from grpo import AdvantageEstimator, Experience, ExperienceCollector
from grpo_adapters.gym import EnvironmentReward
from long_episode_setups import SETUPS, build, credit_of, sampler_of

FIRST_SEED = 900_000_000
COMPARED = (("episode", "anchors", "time", "state"), ("branches", "state-branches"))  # of the same rollouts each


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    seed: int = 10
    """Of the training by likeness of states that the policies are of."""
    decisions: tuple[int, ...] = (50_000, 200_000)
    """After how many the policy is looked at."""
    rollouts: int = 16
    """For each kind of starts."""


def cosines(policy: Any, rollouts: int) -> dict[str, float]:
    """Of the gradients of two rollouts, by kind of credit."""
    found = {}
    for names in COMPARED:
        setup = SETUPS[names[0]]
        collector = ExperienceCollector(
            policy, EnvironmentReward(), sampler=sampler_of(setup, FIRST_SEED), group_size=setup.group_size
        )
        gradients: dict[str, list[Tensor]] = {name: [] for name in names}
        for rollout in range(rollouts):
            first = FIRST_SEED + rollout * setup.num_groups
            experience = collector.collect([*range(first, first + setup.num_groups)])
            for name in names:
                gradients[name].append(gradient(policy, experience, credit_of(SETUPS[name])))
        for name, own in gradients.items():
            pairs = [float(torch.cosine_similarity(*pair, dim=0)) for pair in combinations(own, 2)]
            found[name] = round(mean(pairs), 3)
    return found


def gradient(policy: Any, experience: Experience, credit: AdvantageEstimator) -> Tensor:
    """Of the mean of A log π over the decisions, A normalised as in training, in one vector."""
    advantages = credit(experience)
    if len(advantages) < experience.samples.total:
        advantages = experience.samples.expand(advantages)
    objective = ((advantages - advantages.mean()) * policy.evaluate_actions(experience.batch).log_probs).mean()
    own = torch.autograd.grad(objective, list(policy.get_parameters().values()))
    return torch.cat([part.flatten() for part in own])


def main(options: Options) -> None:
    """Train, measure on the way, and print."""
    torch.set_num_threads(1)
    trainer, states = build(SETUPS["state"], options.seed)
    found: dict[int, Mapping[str, float]] = {}
    decisions = step = 0
    for until in options.decisions:
        while decisions < until:
            decisions += int(trainer.step(states(step))["num_decisions"])
            step += 1
        found[decisions] = cosines(trainer.policy, options.rollouts)
        print(decisions, found[decisions], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
