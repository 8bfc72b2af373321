"""PPO with a penalty: instead of clipping the ratio, pay for the divergence from the policy that sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grpo.data.decisions import Decisions, Terms
from grpo.data.experience import Experience
from grpo.data.needs import NOTHING, Needs
from grpo.data.state import load_states_of, states_of
from grpo.divergences.coefficients import AdaptiveKLCoefficient
from grpo.divergences.estimators import kl_k3
from grpo.objectives.surrogates import old_or_current, old_policy_metrics, probability_ratio


def kl_penalty_surrogate(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, coefficient: float) -> Tensor:
    """Penalised surrogate of PPO, -ρA + β KL(π_old‖π), with the divergence estimated by ρ - 1 - log ρ.

    Args:
        log_probs: log π(a|s) under the policy being optimised, [D], nats.
        old_log_probs: the same under the policy that sampled, [D].
        advantages: A, [D].
        coefficient: β, at least 0.

    Returns:
        The loss of each decision, [D], to be minimised.

    References:
        Schulman et al. 2017, arXiv:1707.06347, eq. 8.

    Example:
        >>> log_probs, old_log_probs = torch.tensor([-1.0, 0.0]), torch.tensor([-1.0, -1.0])
        >>> kl_penalty_surrogate(log_probs, old_log_probs, torch.tensor([2.0, 2.0]), coefficient=10.0)
        tensor([-2.0000,  1.7463])
    """
    ratio = probability_ratio(log_probs, old_log_probs)
    return -ratio * advantages + coefficient * kl_k3(old_log_probs, log_probs)


class KLPenaltySurrogate:
    """PPO's other surrogate, :func:`kl_penalty_surrogate`.

    Attributes:
        coefficient: β.

    Args:
        coefficient: β: a number of at least 0, or an :class:`AdaptiveKLCoefficient`, which follows the divergence that
            each step of the trainer ends with.

    Raises:
        ValueError: if the coefficient is none.

    Example:
        >>> from grpo import GRPOConfig, GRPOObjective, GRPOTrainer
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> objective = GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(target=0.01)))
        >>> config, models = GRPOConfig(learning_rate=0.0), (SoftmaxPolicy(2), StationaryBandit([0.0, 1.0]))
        >>> trainer = GRPOTrainer(config, *models, objective=objective)
        >>> [trainer.step(["the only state"])["kl_penalty_coefficient"] for _ in range(3)]  # nothing moves: halved
        [1.0, 0.5, 0.25]
    """

    def __init__(self, *, coefficient: float | AdaptiveKLCoefficient) -> None:
        if not isinstance(coefficient, AdaptiveKLCoefficient) and not (
            isinstance(coefficient, float | int) and 0 <= coefficient < float("inf")
        ):
            raise ValueError(
                f"KLPenaltySurrogate got coefficient={coefficient!r}, expected a finite number of at least 0, or a "
                f"grpo.AdaptiveKLCoefficient"
            )
        self.coefficient = coefficient

    def __repr__(self) -> str:
        return f"KLPenaltySurrogate(coefficient={self.coefficient!r})"

    @property
    def needs(self) -> Needs:
        """The divergence of the step, where the coefficient follows it."""
        follows = isinstance(self.coefficient, AdaptiveKLCoefficient)
        return replace(NOTHING, adapts=follows, step_kl=follows)

    def __call__(self, log_probs: Tensor, decisions: Decisions) -> Terms:
        """The loss of each decision, with ``approx_kl`` and ``kl_penalty_coefficient``."""
        fixed = self.coefficient
        beta = fixed.value if isinstance(fixed, AdaptiveKLCoefficient) else fixed
        old_log_probs = old_or_current(log_probs, decisions)
        loss = kl_penalty_surrogate(log_probs, old_log_probs, decisions.advantages, coefficient=beta)
        metrics = {"kl_penalty_coefficient": torch.full_like(decisions.advantages, beta)}
        return Terms(loss, old_policy_metrics(log_probs, decisions) | metrics)

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        """Tell the coefficient the divergence that a step of the trainer ended with."""
        if isinstance(self.coefficient, AdaptiveKLCoefficient) and "policy_kl" in metrics:
            self.coefficient.update(metrics["policy_kl"])

    def state_dict(self) -> dict[str, Any]:
        """That of the coefficient, where it changes."""
        return states_of({"coefficient": self.coefficient})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        load_states_of({"coefficient": self.coefficient}, state_dict)
