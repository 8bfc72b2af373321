"""Settings of PPO."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from grpo.config._frozen_model import Fraction
from grpo.config.rollout import LossAveraging, TrainerConfig
from grpo.config.schedules import ScheduledFraction, ScheduledNonNegative


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

    Raises:
        ValueError: if a number is out of its range.

    References:
        Schulman et al. 2017, arXiv:1707.06347; what matters: Andrychowicz et al. 2021, arXiv:2006.05990.

    Example:
        >>> PPOConfig(batch_size=64, num_epochs_per_update=10).num_updates(256)
        40
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
