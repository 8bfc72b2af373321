"""When a run is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from grpo.config._frozen_model import FrozenModel


class Until(FrozenModel):
    """Train until one of these is reached, counted from the beginning of the run, what was resumed included.

    Attributes:
        steps: calls of ``trainer.step``.
        decisions: decisions that were learnt from, as the metric ``num_decisions`` counts them.
        samples: samples that were learnt from, as ``num_samples`` or, for pairs, ``num_pairs`` counts them.
        seconds: wall time spent in the run.
        condition: whether the metrics of a step, those of the last evaluation included, are good enough.

    Raises:
        ValueError: if none is given: the run would have no end.

    Example:
        >>> Until(steps=1000, condition=lambda metrics: metrics["reward"] > 0.95).steps
        1000
    """

    steps: PositiveInt | None = None
    decisions: PositiveInt | None = None
    samples: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    condition: Callable[[Mapping[str, float]], bool] | None = None

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError("Until() never ends: give steps, decisions, samples, seconds or a condition")
        return self
