"""The settings of a trainer that samples, whatever it optimises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, StrictInt, field_validator, model_validator

from grpo.config._elsewhere import LOSS_TYPES
from grpo.config._frozen_model import FrozenModel
from grpo.config.update import UpdateConfig

LossAveraging = Literal["per_sample", "per_decision"] | Annotated[StrictInt, Field(gt=0)]


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

    Example:
        >>> from itertools import count, islice
        >>> numbers = count()
        >>> fresh = DynamicSampling(max_rounds=3, draw_states=lambda how_many: list(islice(numbers, how_many)))
        >>> fresh.draw_states(2)
        [0, 1]
    """

    max_rounds: PositiveInt
    draw_states: Callable[[int], Any] | None = None


class ImportanceCorrection(FrozenModel):
    """Correct the loss for a sampler whose log-probs are not the policy's, as those of an inference engine are not.

    With r the probability of what was sampled under the policy at the start of the step over that under the sampler,
    the loss that an advantage makes, and no other term of it, is multiplied by min(r, C), or by r where that is within
    [C_min, C] and by 0 elsewhere. No gradient flows through it.

    Attributes:
        kind: ``"truncate"`` or ``"mask"``.
        per: a ratio for each ``"decision"``, or one for all decisions of a ``"sample"``, their product.
        max_ratio: C, at least 1.
        min_ratio: C_min, in [0, 1]; with ``"mask"`` only.

    Raises:
        ValueError: if a number is out of its range, or ``min_ratio`` is set with ``"truncate"``.

    References:
        Truncated: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training". To clip
        against the policy at the start of the step and weight by its ratio to the sampler: Hilton et al. 2022,
        arXiv:2110.00641.

    Example:
        >>> ImportanceCorrection(kind="mask", min_ratio=0.5).max_ratio
        2.0
    """

    kind: Literal["truncate", "mask"] = "truncate"
    per: Literal["decision", "sample"] = "decision"
    max_ratio: float = Field(2.0, ge=1)
    min_ratio: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check_min_ratio(self) -> Self:
        if self.kind == "truncate" and self.min_ratio > 0:
            raise ValueError(f"min_ratio={self.min_ratio} masks small ratios: set kind='mask', or leave it at 0")
        return self


class TrainerConfig(UpdateConfig):
    """How a trainer samples and credits, whatever it optimises, besides the settings of :class:`grpo.UpdateConfig`.

    Attributes:
        group_size: actions sampled for each state, G.
        loss_averaging: ``"per_sample"`` is the mean over samples of the mean over their decisions (GRPO),
            ``"per_decision"`` the mean over all decisions of the optimiser step (DAPO), and an integer L the sum over
            decisions divided by the number of samples times L (Dr. GRPO, L the longest a sample can be).
        advantage_normalization: advantages to mean 0 and standard deviation 1 over all decisions of the step
            (``"per_step"``) or of each optimiser step (``"per_minibatch"``); None leaves them.
        mask_truncated: whether a sample that was cut short weighs nothing in the loss (DAPO's overlong filtering). With
            True the loss is divided by what is left; with ``"decisions"``, as in TRL, by that of an average over
            samples which still counts them, so that the others weigh no more than they did. Its reward counts in
            the mean of its group. The policy's batches must tell (:class:`grpo.HasTruncations`).
        dynamic_sampling: what is sampled in place of groups without spread; None to keep them as they are.
        importance_correction: how the loss is corrected for a sampler that draws with log-probs other than the
            policy's, which batches must tell (:class:`grpo.HasSamplingLogProbs`); None for no correction, and
            ``"sampler"`` for what the sampler recommends (:class:`grpo.DiffersFromPolicy`), none for most.
        target_kl: the remaining updates of a rollout are left out once ``approx_kl`` of one would be above 1.5 times
            this, and so is that one: ``num_updates`` tells how many were made. None for no such stop.
        compile_updates: whether ``torch.compile`` makes one function of the policy's evaluation, the objective and
            their gradient. The first update takes seconds then, the others two thirds of their time where networks
            are small; results differ by rounding. It takes PyTorch 2.13, a compiler for C++, and a policy that
            computes on tensors alone.

    Raises:
        ValueError: if a number is out of its range, or ``dynamic_sampling`` is asked for with groups of one.

    Example:
        >>> config = TrainerConfig(group_size=8, batch_size=16, num_epochs_per_update=2)
        >>> config.num_updates(num_rows=4 * config.group_size)  # 2 passes over 4 states' 32 samples, 16 at a time
        4
    """

    group_size: PositiveInt = 8
    loss_averaging: LossAveraging = "per_sample"
    advantage_normalization: Literal["per_step", "per_minibatch"] | None = None
    mask_truncated: bool | Literal["decisions"] = False
    dynamic_sampling: DynamicSampling | None = None
    importance_correction: ImportanceCorrection | Literal["sampler"] | None = "sampler"
    target_kl: PositiveFloat | None = None
    compile_updates: bool = False

    @field_validator("loss_averaging", mode="before")
    @classmethod
    def _name_what_is_known_elsewhere(cls, value: Any) -> Any:
        if isinstance(value, str) and value in LOSS_TYPES:
            raise ValueError(f"loss_averaging is {value!r}, as other libraries call it: here it is {LOSS_TYPES[value]}")
        return value

    @model_validator(mode="after")
    def _check_dynamic_sampling(self) -> Self:
        if self.dynamic_sampling is not None and self.group_size == 1:
            raise ValueError("dynamic_sampling compares the rewards of a group: group_size is 1, expected at least 2")
        return self
