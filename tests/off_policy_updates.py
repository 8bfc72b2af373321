"""One optimiser step over samples of another policy: the gradient that it makes, and what it reports.

With plain SGD at learning rate 1 and no bound on its norm, the change of the parameters is minus the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from models import (
    EpisodePolicy,
    FunctionRewards,
    SequencePolicy,
    TablePolicy,
    parameter_values,
)
from torch import Tensor

from grpo import (
    ClippedImportanceSurrogate,
    ClippedSurrogate,
    Experience,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    Objective,
    SampleClippedSurrogate,
    ScoreFunctionSurrogate,
    SoftAdaptiveSurrogate,
)
from grpo.data.needs import needs_of

Policy = TablePolicy | SequencePolicy
OBJECTIVES = {
    "clipped": GRPOObjective(surrogate=ClippedSurrogate(dual_clip=3.0)),
    "gspo": GRPOObjective(surrogate=SampleClippedSurrogate()),
    "cispo": GRPOObjective(surrogate=ClippedImportanceSurrogate()),
    "sapo": GRPOObjective(surrogate=SoftAdaptiveSurrogate(temperature_negative=2.0)),
    "reinforce": GRPOObjective(surrogate=ScoreFunctionSurrogate()),
    "clipped with KL": GRPOObjective(kl_coefficient=0.3, kl_importance_correction=True),
}
AVERAGINGS: list[Any] = ["per_sample", "per_decision", 7]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
every_averaging = pytest.mark.parametrize("averaging", AVERAGINGS)
every_policy = pytest.mark.parametrize("policy_class", [TablePolicy, SequencePolicy, EpisodePolicy])


def reward(state: int, action: Any) -> float:
    return sum(action) / 3 - len(action) if isinstance(action, tuple) else float(action == state)


def build_trainer(policy: Policy, objective: Objective, **settings: Any) -> GRPOTrainer[Any, Any]:
    return GRPOTrainer(
        GRPOConfig(group_size=5, max_grad_norm=None, **settings),
        policy,
        FunctionRewards(reward),
        reference_policy=type(policy)() if needs_of(objective).reference else None,
        optimizer=torch.optim.SGD(policy.get_parameters().values(), lr=1.0),
        objective=objective,
    )


def collect_off_policy(policy: Policy, sizes: Sequence[int] = (5, 2, 4), seed: int = 3) -> Experience:
    """Samples whose old log-probs are some way from the policy's, in groups of different sizes."""
    torch.manual_seed(seed)
    trainer = build_trainer(policy, OBJECTIVES["clipped with KL"], num_epochs_per_update=2)
    states = [index % 3 for index in range(len(sizes))]
    groups = [policy.generate_actions([state], size)[0] for state, size in zip(states, sizes, strict=True)]
    experience = trainer.collector.score(states, groups)
    assert experience.old_log_probs is not None
    noise = torch.randn(experience.samples.total, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Experience(
        experience.states,
        experience.actions,
        experience.batch,
        experience.groups,
        experience.rewards,
        experience.old_log_probs + 0.3 * noise,
        experience.reference_log_probs - 0.2 * noise if experience.reference_log_probs is not None else None,
    )


def update(
    policy_class: type[Policy],
    objective: Objective,
    sizes: Sequence[int] = (5, 2, 4),
    seed: int = 3,
    **settings: Any,
) -> tuple[Tensor, dict[str, float]]:
    """The gradient of one optimiser step over all rows, and its metrics."""
    policy = policy_class()
    experience = collect_off_policy(policy, sizes, seed)
    before = parameter_values(policy.get_parameters())
    metrics = build_trainer(policy, objective, **settings).update(experience)
    after = policy.get_parameters()
    return torch.cat([(before[name] - after[name]).flatten() for name in before]).detach(), metrics
