"""Settings of REINFORCE."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from grpo.config._frozen_model import Fraction
from grpo.config.rollout import LossAveraging, TrainerConfig
from grpo.config.schedules import ScheduledNonNegative


class ReinforceConfig(TrainerConfig):
    """Settings of :class:`grpo.ReinforceTrainer`.

    Attributes:
        discount: γ.
        entropy_coefficient: weight of the entropy bonus; above 0 the policy must tell its entropy.

    Raises:
        ValueError: if a number is out of its range.

    References:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".

    Example:
        >>> ReinforceConfig(discount=1.0).group_size
        1
    """

    group_size: PositiveInt = 1
    loss_averaging: LossAveraging = "per_decision"
    advantage_normalization: Literal["per_step", "per_minibatch"] | None = "per_step"
    discount: Fraction = 0.99
    entropy_coefficient: ScheduledNonNegative = 0.0
