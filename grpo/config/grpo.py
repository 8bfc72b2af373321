"""Settings of GRPO."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import NonNegativeFloat, model_validator

from grpo.config.rollout import TrainerConfig
from grpo.config.schedules import LinearSchedule, ScheduledFraction, ScheduledNonNegative, largest

KLEstimator = Literal["k1", "k2", "k3"]


class GRPOConfig(TrainerConfig):
    """Settings of :class:`grpo.GRPOTrainer`: those of any trainer and those of GRPO's objective.

    Attributes:
        clip_low: ε_low; the ratio is clipped to [1 - ε_low, 1 + ε_high].
        clip_high: ε_high; DAPO's is 0.28.
        dual_clip: bound on the ratio where the advantage is negative, above 1 + clip_high; None for none.
        kl_coefficient: β, weight of the divergence from the reference policy in the loss. None means the paper's 0.04
            with a reference policy, and 0 without one or where the advantage estimator puts it into the rewards.
        kl_estimator: which estimator of it, :func:`grpo.kl_k1`, :func:`grpo.kl_k2` or :func:`grpo.kl_k3`.
        kl_importance_correction: multiply the estimator by the probability ratio, which makes its gradient unbiased.
        entropy_coefficient: weight of the entropy bonus; above 0 the policy must tell its entropy.

    Raises:
        ValueError: if a number is out of its range, ``dual_clip`` not above 1 + ``clip_high``, or
            ``dynamic_sampling`` is asked for with groups of one.

    References:
        Shao et al. 2024, arXiv:2402.03300.

    Example:
        >>> GRPOConfig(group_size=4, clip_high=0.28).clip_high
        0.28
    """

    clip_low: ScheduledFraction = 0.2
    clip_high: ScheduledNonNegative = 0.2
    dual_clip: float | None = None
    kl_coefficient: NonNegativeFloat | None = None
    kl_estimator: KLEstimator = "k3"
    kl_importance_correction: bool = False
    entropy_coefficient: ScheduledNonNegative = 0.0

    @model_validator(mode="after")
    def _check_dual_clip(self) -> Self:
        check_dual_clip(self.dual_clip, self.clip_high)
        return self


def check_dual_clip(dual_clip: float | None, clip_high: float | LinearSchedule) -> None:
    """The dual clip bounds what the clip range leaves unbounded, so it must be the wider bound."""
    if dual_clip is not None and dual_clip <= 1 + largest(clip_high):
        raise ValueError(f"dual_clip is {dual_clip}, expected more than 1 + clip_high = {1 + largest(clip_high)}")
