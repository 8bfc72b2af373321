"""Settings as frozen pydantic models: unknown keys are refused, ranges are checked."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StrictInt,
    model_validator,
)

from grpo.kl_divergence import KLEstimator

ClipLow = Annotated[float, Field(ge=0, le=1)]
ClipHigh = Annotated[float, Field(ge=0)]
LossAveraging = Literal["per_sample", "per_decision"] | Annotated[StrictInt, Field(gt=0)]


class FrozenModel(BaseModel):
    """Base of all settings: immutable, keyword-only, no unknown key, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def check_dual_clip(dual_clip: float | None, clip_high: float) -> None:
    """The dual clip bounds what the clip range leaves unbounded, so it must be the wider bound."""
    if dual_clip is not None and dual_clip <= 1 + clip_high:
        raise ValueError(f"dual_clip is {dual_clip}, expected more than 1 + clip_high = {1 + clip_high}")


class TrainerConfig(FrozenModel):
    """How a trainer runs, whatever it optimises.

    Attributes:
        group_size: actions sampled for each state, G.
        batch_size: rows per optimiser step; None for all rows of the rollout. A row is a sample, or a decision where
            the policy can evaluate decisions one by one.
        micro_batch_size: rows per backward pass; None for the whole batch. It bounds memory and changes no result.
        num_epochs_per_update: passes over the rollout.
        learning_rate: of the AdamW that is built where no optimizer is given.
        max_grad_norm: the gradient is scaled down to this norm over all parameters; None for no bound.
        loss_averaging: ``"per_sample"`` is the mean over samples of the mean over their decisions (GRPO),
            ``"per_decision"`` the mean over all decisions of the optimiser step (DAPO), and an integer L the sum over
            decisions divided by the number of samples times L (Dr. GRPO, L the longest a sample can be).
        non_finite: what a NaN or infinite reward, log-prob or gradient does: ``"raise"`` stops the step with an error
            and leaves everything as it was, ``"skip"`` leaves out the update and counts it.
        seed: of the order in which rows are visited. Sampling is up to the policy.
        device: where policy, reference policy and reward model are moved at construction; None leaves them.
    """

    group_size: PositiveInt = 8
    batch_size: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    num_epochs_per_update: PositiveInt = 1
    learning_rate: NonNegativeFloat = 1e-3
    max_grad_norm: PositiveFloat | None = 1.0
    loss_averaging: LossAveraging = "per_sample"
    non_finite: Literal["raise", "skip"] = "raise"
    seed: int = Field(0, ge=0, lt=2**63)
    device: str | None = None

    def num_updates(self, num_rows: int) -> int:
        """Optimiser steps that a rollout of R rows takes at the most."""
        return self.num_epochs_per_update * ceil(num_rows / (self.batch_size or num_rows))


class GRPOConfig(TrainerConfig):
    """Settings of :class:`grpo.GRPOTrainer`: those of any trainer and those of GRPO's objective.

    Attributes:
        clip_low: ε_low; the ratio is clipped to [1 - ε_low, 1 + ε_high].
        clip_high: ε_high; DAPO's is 0.28.
        dual_clip: bound on the ratio where the advantage is negative, above 1 + clip_high; None for none.
        kl_coefficient: β, weight of the divergence from the reference policy in the loss. None means the paper's 0.04
            with a reference policy and 0 without one.
        kl_estimator: which estimator of it, see :mod:`grpo.kl_divergence`.
        kl_importance_correction: multiply the estimator by the probability ratio, which makes its gradient unbiased.
        entropy_coefficient: weight of the entropy bonus; above 0 the policy must tell its entropy.

    References:
        Shao et al. 2024, arXiv:2402.03300.

    Example:
        >>> GRPOConfig(group_size=4, clip_high=0.28).clip_high
        0.28
    """

    clip_low: ClipLow = 0.2
    clip_high: ClipHigh = 0.2
    dual_clip: float | None = None
    kl_coefficient: NonNegativeFloat | None = None
    kl_estimator: KLEstimator = "k3"
    kl_importance_correction: bool = False
    entropy_coefficient: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _check_dual_clip(self) -> Self:
        check_dual_clip(self.dual_clip, self.clip_high)
        return self
