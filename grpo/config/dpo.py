"""Settings of DPO."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from grpo.config.update import UpdateConfig


class DPOConfig(UpdateConfig):
    """Settings of :class:`grpo.DPOTrainer`: those of any update, counted in pairs, and those of DPO's objective.

    Attributes:
        reference_free: whether to do without a reference policy, as if all actions were equally likely under it.
        beta: β > 0; the larger, the nearer to the reference policy.
        label_smoothing: how likely a label is taken to be wrong, in [0, 0.5].
        sft_coefficient: weight of the chosen actions' own negative log-likelihood, 0 for none.

    Raises:
        ValueError: if a number is out of its range, or ``reference_sync`` is set with ``reference_free``.

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
