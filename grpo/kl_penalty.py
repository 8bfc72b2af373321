"""PPO with a penalty: instead of clipping the ratio, pay for the divergence from the policy that sampled."""

from __future__ import annotations

import torch
from pydantic import ConfigDict, NonNegativeFloat
from torch import Tensor

from grpo.decisions import Decisions, Terms
from grpo.frozen_model import FrozenModel
from grpo.kl_coefficients import AdaptiveKLCoefficient
from grpo.kl_divergence import kl_k3
from grpo.surrogate import old_or_current, old_policy_metrics, probability_ratio


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


class KLPenaltySurrogate(FrozenModel):
    """PPO's other surrogate, :func:`kl_penalty_surrogate`.

    Attributes:
        coefficient: β: a number, or an :class:`AdaptiveKLCoefficient`, which follows the divergence that each step of
            the trainer ends with.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    coefficient: NonNegativeFloat | AdaptiveKLCoefficient

    def __call__(self, log_probs: Tensor, decisions: Decisions) -> Terms:
        """The loss of each decision, with ``approx_kl`` and ``kl_penalty_coefficient``."""
        fixed = self.coefficient
        beta = fixed.value if isinstance(fixed, AdaptiveKLCoefficient) else fixed
        old_log_probs = old_or_current(log_probs, decisions)
        loss = kl_penalty_surrogate(log_probs, old_log_probs, decisions.advantages, coefficient=beta)
        metrics = {"kl_penalty_coefficient": torch.full_like(decisions.advantages, beta)}
        return Terms(loss, old_policy_metrics(log_probs, decisions) | metrics)

    @property
    def adapts_to_kl(self) -> bool:
        """Whether the coefficient follows the divergence."""
        return isinstance(self.coefficient, AdaptiveKLCoefficient)

    def adapt_to_kl(self, kl: float) -> None:
        """Tell it the divergence that a step of the trainer ended with."""
        if isinstance(self.coefficient, AdaptiveKLCoefficient):
            self.coefficient.update(kl)
