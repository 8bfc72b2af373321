"""How a policy's parameters are changed, whatever the loss."""

from __future__ import annotations

from math import ceil
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from grpo.config._frozen_model import FrozenModel
from grpo.config.schedules import ScheduledNonNegative


class ReferenceSync(FrozenModel):
    """Let the reference policy follow the policy that is trained, θ_ref ← α θ + (1 - α) θ_ref, every so many steps.

    Attributes:
        mixing: α, above 0 and at most 1.
        every: steps of the trainer.

    References:
        Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656.

    Example:
        >>> ReferenceSync(mixing=1.0, every=100).every
        100
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
        learning_rate: of the optimizer. A schedule is followed by an optimizer of your own too: its first group has the
            schedule's rate, the others keep their proportion to it.
        adam_epsilon: of the AdamW that is built where no optimizer is given.
        max_grad_norm: the gradient is scaled down to this norm over all parameters; None for no bound.
        reference_sync: whether the reference policy follows; None leaves it alone.
        non_finite: what a NaN or infinite reward, log-prob or gradient does: ``"raise"`` stops the step with an error
            and leaves everything as it was, ``"skip"`` leaves out the update and counts it.
        undo_failed_updates: whether a step that fails takes back the updates that it has made. For that, parameters and
            optimizer state are copied: always where they are small (64 MiB together), else in steps where something may
            fail after the first update. False saves a large model the memory of the copies; the updates before a
            failure then stay made.
        seed: of the order in which rows are visited. Sampling is up to the policy.
        device: where all models are moved at construction; None leaves them.

    Raises:
        ValueError: if a number is out of its range.
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
