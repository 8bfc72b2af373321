"""Settings as frozen pydantic models: unknown keys are refused, ranges are checked."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, StrictInt, model_validator

from grpo.frozen_model import Fraction, FrozenModel
from grpo.kl_divergence import KLEstimator
from grpo.schedules import LinearSchedule, ScheduledFraction, ScheduledNonNegative

LossAveraging = Literal["per_sample", "per_decision"] | Annotated[StrictInt, Field(gt=0)]


def check_dual_clip(dual_clip: float | None, clip_high: float | LinearSchedule) -> None:
    """The dual clip bounds what the clip range leaves unbounded, so it must be the wider bound."""
    widest = max(clip_high.start, clip_high.end) if isinstance(clip_high, LinearSchedule) else clip_high
    if dual_clip is not None and dual_clip <= 1 + widest:
        raise ValueError(f"dual_clip is {dual_clip}, expected more than 1 + clip_high = {1 + widest}")


class DynamicSampling(FrozenModel):
    """Sample other groups in place of those whose rewards are all equal, since nothing is to be learnt from them.

    With ``draw_states`` they are for fresh states, as in DAPO; without, for the same states again. Groups that still
    are without spread after the last round are left out, unless no group at all has any: then the groups of the first
    round are kept.

    Attributes:
        max_rounds: rounds after the first, at the most.
        draw_states: called with the number of groups without spread, gives as many fresh states, or however many are
            to be sampled in their place; None to sample the same states again.

    References:
        Yu et al. 2025 (DAPO), arXiv:2503.14476, section 3.2.
    """

    max_rounds: PositiveInt
    draw_states: Callable[[int], Any] | None = None


class ReferenceSync(FrozenModel):
    """Let the reference policy follow the policy that is trained, θ_ref ← α θ + (1 - α) θ_ref, every so many steps.

    Attributes:
        mixing: α, above 0 and at most 1.
        every: steps of the trainer.

    References:
        Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656.
    """

    mixing: float = Field(0.6, gt=0, le=1)
    every: PositiveInt = 512


class UpdateConfig(FrozenModel):
    """How a policy's parameters are changed, whatever the loss.

    Attributes:
        batch_size: rows per optimiser step; None for all of them. A row is a sample, or a decision where the policy can
            evaluate decisions one by one. :class:`grpo.DPOTrainer` counts pairs.
        micro_batch_size: rows, or pairs, per backward pass; None for the whole batch. It bounds memory and changes no
            result.
        num_epochs_per_update: passes over what a step learns from.
        learning_rate: of the optimizer; a schedule is followed by an optimizer of your own too.
        adam_epsilon: of the AdamW that is built where no optimizer is given.
        max_grad_norm: the gradient is scaled down to this norm over all parameters; None for no bound.
        reference_sync: whether the reference policy follows; None leaves it alone.
        non_finite: what a NaN or infinite reward, log-prob or gradient does: ``"raise"`` stops the step with an error
            and leaves everything as it was, ``"skip"`` leaves out the update and counts it.
        undo_failed_updates: whether a step that fails takes back the updates that it has made. For that, parameters and
            optimizer state are copied in a step where something may fail after the first update. False saves a large
            model the memory of the copies; the updates before a failure then stay made.
        seed: of the order in which rows are visited. Sampling is up to the policy.
        device: where all models are moved at construction; None leaves them.
    """

    batch_size: PositiveInt | None = None
    micro_batch_size: PositiveInt | None = None
    num_epochs_per_update: PositiveInt = 1
    learning_rate: ScheduledNonNegative = 1e-3
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat | None = 1.0
    reference_sync: ReferenceSync | None = None
    non_finite: Literal["raise", "skip"] = "raise"
    undo_failed_updates: bool = True
    seed: int = Field(0, ge=0, lt=2**63)
    device: str | None = None

    def num_updates(self, num_rows: int) -> int:
        """Optimiser steps that so many rows, or pairs, take at the most."""
        return self.num_epochs_per_update * ceil(num_rows / (self.batch_size or num_rows))


class TrainerConfig(UpdateConfig):
    """How a trainer samples and credits, whatever it optimises, besides the settings of :class:`grpo.UpdateConfig`.

    Attributes:
        group_size: actions sampled for each state, G.
        loss_averaging: ``"per_sample"`` is the mean over samples of the mean over their decisions (GRPO),
            ``"per_decision"`` the mean over all decisions of the optimiser step (DAPO), and an integer L the sum over
            decisions divided by the number of samples times L (Dr. GRPO, L the longest a sample can be).
        advantage_normalization: advantages to mean 0 and standard deviation 1 over all decisions of the step
            (``"per_step"``) or of each optimiser step (``"per_minibatch"``); None leaves them.
        mask_truncated: whether a sample that was cut short weighs nothing in the loss (DAPO's overlong filtering). Its
            reward still counts in the mean of its group. The policy's batches must tell
            (:class:`grpo.HasTruncations`).
        dynamic_sampling: what is sampled in place of groups without spread; None to keep them as they are.
        target_kl: the remaining updates of a rollout are left out once ``approx_kl`` of one would be above 1.5 times
            this, and so is that one: ``num_updates`` tells how many were made. None for no such stop.
    """

    group_size: PositiveInt = 8
    loss_averaging: LossAveraging = "per_sample"
    advantage_normalization: Literal["per_step", "per_minibatch"] | None = None
    mask_truncated: bool = False
    dynamic_sampling: DynamicSampling | None = None
    target_kl: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check_dynamic_sampling(self) -> Self:
        if self.dynamic_sampling is not None and self.group_size == 1:
            raise ValueError("dynamic_sampling compares the rewards of a group: group_size is 1, expected at least 2")
        return self


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


class PPOConfig(TrainerConfig):
    """Settings of :class:`grpo.PPOTrainer`; the defaults are those that Stable-Baselines3 made common.

    Attributes:
        discount: γ.
        gae_lambda: λ of generalised advantage estimation.
        clip_low: ε_low; the ratio is clipped to [1 - ε_low, 1 + ε_high].
        clip_high: ε_high.
        value_coefficient: weight of the value loss.
        value_clip: bound on how far an update may move a value; None for none, which is the better choice.
        entropy_coefficient: weight of the entropy bonus; above 0 the policy must tell its entropy.
        kl_coefficient: β, weight of the divergence from a reference policy in the loss.

    References:
        Schulman et al. 2017, arXiv:1707.06347; what matters: Andrychowicz et al. 2021, arXiv:2006.05990.
    """

    group_size: PositiveInt = 1
    batch_size: PositiveInt | None = 64
    num_epochs_per_update: PositiveInt = 10
    learning_rate: ScheduledNonNegative = 3e-4
    adam_epsilon: PositiveFloat = 1e-5
    max_grad_norm: PositiveFloat | None = 0.5
    loss_averaging: LossAveraging = "per_decision"
    advantage_normalization: Literal["per_step", "per_minibatch"] | None = "per_minibatch"
    discount: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    clip_low: ScheduledFraction = 0.2
    clip_high: ScheduledNonNegative = 0.2
    value_coefficient: NonNegativeFloat = 0.5
    value_clip: PositiveFloat | None = None
    entropy_coefficient: ScheduledNonNegative = 0.0
    kl_coefficient: NonNegativeFloat = 0.0


class ReinforceConfig(TrainerConfig):
    """Settings of :class:`grpo.ReinforceTrainer`.

    Attributes:
        discount: γ.
        entropy_coefficient: weight of the entropy bonus; above 0 the policy must tell its entropy.

    References:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    """

    group_size: PositiveInt = 1
    loss_averaging: LossAveraging = "per_decision"
    advantage_normalization: Literal["per_step", "per_minibatch"] | None = "per_step"
    discount: Fraction = 0.99
    entropy_coefficient: ScheduledNonNegative = 0.0


class DPOConfig(UpdateConfig):
    """Settings of :class:`grpo.DPOTrainer`: those of any update, counted in pairs, and those of DPO's objective.

    Attributes:
        reference_free: whether to do without a reference policy, as if all actions were equally likely under it.
        beta: β > 0; the larger, the nearer to the reference policy.
        label_smoothing: how likely a label is taken to be wrong, in [0, 0.5].
        sft_coefficient: weight of the chosen actions' own negative log-likelihood, 0 for none.

    References:
        Rafailov et al. 2023, arXiv:2305.18290.

    Example:
        >>> DPOConfig(beta=0.2).batch_size is None
        True
    """

    reference_free: bool = False
    beta: PositiveFloat = 0.1
    label_smoothing: float = Field(0.0, ge=0, le=0.5)
    sft_coefficient: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _check_reference_sync(self) -> Self:
        if self.reference_free and self.reference_sync is not None:
            raise ValueError("reference_sync moves a reference policy, which reference_free does without: drop one")
        return self
