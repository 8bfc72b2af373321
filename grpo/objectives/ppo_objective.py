"""What PPO minimises: a surrogate with the loss of a critic."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from grpo.data.decisions import Decisions, Terms
from grpo.data.evaluation import Evaluation
from grpo.data.needs import Needs
from grpo.objectives._checks import require_gradient
from grpo.objectives.grpo_objective import GRPOObjective


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """Squared error of the critic, (V - R)².

    Args:
        values: V(s), [D].
        returns: R, what it should have expected, [D].

    Returns:
        The loss of each decision, [D].

    Example:
        >>> value_loss(torch.tensor([1.0]), torch.tensor([3.0]))
        tensor([4.])
    """
    return (values - returns).square()


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> Tensor:
    """Squared error of the critic, pessimistic about moves beyond ±ε: max((V - R)², (clip(V, V_old ± ε) - R)²).

    Args:
        values: V(s), [D].
        old_values: V_old(s), before the update, [D].
        returns: R, what it should have expected, [D].
        clip: ε > 0, in units of the return.

    Returns:
        The loss of each decision, [D].

    References:
        Engstrom et al. 2020, arXiv:2005.12729; it seldom helps: Andrychowicz et al. 2021, arXiv:2006.05990.

    Example:
        >>> import torch
        >>> values, old_values, returns = torch.tensor([3.0, 3.0]), torch.tensor([0.0, 0.0]), torch.tensor([4.0, 0.0])
        >>> clipped_value_loss(values, old_values, returns, clip=1.0)
        tensor([9., 9.])
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return value_loss(values, returns).maximum(value_loss(clipped, returns))


class PPOObjective(GRPOObjective):
    """surrogate + c_v (V - R)² + β KL(π‖π_ref) - c H, per decision.

    Attributes:
        surrogate: a :class:`grpo.Surrogate`, the library's or your own.
        kl_coefficient: β ≥ 0; above 0 a reference policy is needed.
        kl_estimator: :func:`grpo.kl_k1`, :func:`grpo.kl_k2` or :func:`grpo.kl_k3`.
        kl_importance_correction: multiply the estimator by the probability ratio.
        entropy_coefficient: c ≥ 0, or a schedule of it; above 0 the policy's evaluation must hold an entropy.
        value_coefficient: c_v ≥ 0.
        value_clip: ε of :func:`clipped_value_loss`; None for :func:`value_loss`.

    References:
        Schulman et al. 2017, arXiv:1707.06347, eq. 9.

    Example:
        >>> from grpo import Segments
        >>> one = torch.tensor([1.0])
        >>> decisions = Decisions(one, None, None, Segments(1, 1), returns=3 * one, old_values=2 * one)
        >>> terms = PPOObjective(value_coefficient=0.25)(Evaluation(-one, values=one), decisions)
        >>> terms.loss, terms.metrics["value_loss"]  # -1 + 0.25 * (1 - 3)²
        (tensor([0.]), tensor([4.]))
    """

    value_coefficient: NonNegativeFloat = 0.5
    value_clip: PositiveFloat | None = None

    @property
    def needs(self) -> Needs:
        """Those of GRPO's objective, a critic, and what it should have expected."""
        return replace(super().needs, critic=True, value_targets=True)

    def __call__(self, evaluation: Evaluation, decisions: Decisions) -> Terms:
        """The loss of each decision; GRPO's metrics and ``value_loss``."""
        policy = super().__call__(evaluation, decisions)
        values, returns, old_values = evaluation.values, decisions.returns, decisions.old_values
        if values is None or returns is None or old_values is None:
            raise ValueError(
                "the objective needs values, but the policy's evaluation has none: return "
                "Evaluation(log_probs, entropy, values) from evaluate_actions"
            )
        if self.value_coefficient > 0:
            require_gradient("values", values, evaluation.log_probs, "set value_coefficient to 0")
        if self.value_clip is None:
            error = value_loss(values, returns)
        else:
            error = clipped_value_loss(values, old_values, returns, clip=self.value_clip)
        loss = torch.add(policy.loss, error, alpha=self.value_coefficient)
        return Terms(loss, policy.metrics | {"value_loss": error.detach()})
