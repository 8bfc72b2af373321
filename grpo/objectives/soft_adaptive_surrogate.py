"""SAPO: a gate that closes softly takes the place of the clip."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor

from grpo.config._frozen_model import FrozenModel
from grpo.data.decisions import Decisions, Terms
from grpo.data.needs import NOTHING, Needs
from grpo.objectives.surrogates import old_or_current, old_policy_metrics, probability_ratio


def soft_adaptive_surrogate(
    ratio: Tensor, advantages: Tensor, *, temperature_positive: float, temperature_negative: float
) -> Tensor:
    """SAPO's surrogate, -σ(τ(ρ - 1)) (4/τ) A with τ by the sign of A, per decision.

    Its derivative in ρ is -A times a gate, 4σ(1 - σ), that is 1 at ρ = 1 and falls to 0 on both sides of it.

    Args:
        ratio: ρ, [D].
        advantages: A, [D].
        temperature_positive: τ where A > 0, above 0; the higher, the sooner the gate closes.
        temperature_negative: τ elsewhere, above 0.

    Returns:
        The loss of each decision, [D], to be minimised.

    References:
        Gao et al. 2025 (SAPO), arXiv:2511.20347.

    Example:
        >>> ratio, advantages = torch.tensor([1.0, 1.0, 3.0]), torch.tensor([1.0, -1.0, 1.0])
        >>> soft_adaptive_surrogate(ratio, advantages, temperature_positive=1.0, temperature_negative=2.0)
        tensor([-2.0000,  1.0000, -3.5232])
    """
    temperature = torch.where(advantages > 0, temperature_positive, temperature_negative)
    return -torch.sigmoid(temperature * (ratio - 1)) * (4 / temperature) * advantages


class SoftAdaptiveSurrogate(FrozenModel):
    """SAPO's surrogate, :func:`soft_adaptive_surrogate`, with a ratio for every decision.

    Attributes:
        temperature_positive: τ where A > 0.
        temperature_negative: τ elsewhere; above the other, since what makes one action less likely makes all others
            more likely.

    Example:
        >>> from grpo import Segments
        >>> decisions = Decisions(torch.ones(2), torch.tensor([-1.0, -9.0]), None, Segments(2, 1))
        >>> log_probs = torch.tensor([-1.0, -0.1], requires_grad=True)  # ratios of 1 and of some thousands
        >>> [slopes] = torch.autograd.grad(SoftAdaptiveSurrogate()(log_probs, decisions).loss.sum(), log_probs)
        >>> slopes.abs()
        tensor([1., 0.])
    """

    temperature_positive: PositiveFloat = 1.0
    temperature_negative: PositiveFloat = 1.05
    needs: ClassVar[Needs] = NOTHING

    def __call__(self, log_probs: Tensor, decisions: Decisions) -> Terms:
        """The loss of each decision, with ``approx_kl``."""
        loss = soft_adaptive_surrogate(
            probability_ratio(log_probs, old_or_current(log_probs, decisions)),
            decisions.advantages,
            temperature_positive=self.temperature_positive,
            temperature_negative=self.temperature_negative,
        )
        return Terms(loss, old_policy_metrics(log_probs, decisions))
