"""Numbers that change from step to step of a trainer."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BeforeValidator, PositiveInt
from torch import Tensor

from grpo.config._frozen_model import FrozenModel


class LinearSchedule(FrozenModel):
    """A number that goes from ``start`` to ``end`` in equal parts, and stays there.

    Attributes:
        start: in the first step of the trainer.
        end: after ``num_steps`` steps.
        num_steps: steps of the trainer, not of an environment or the optimizer.

    Example:
        >>> schedule = LinearSchedule(start=0.2, end=0.0, num_steps=4)
        >>> [round(schedule.at(step), 2) for step in range(6)]
        [0.2, 0.15, 0.1, 0.05, 0.0, 0.0]
    """

    start: float
    end: float
    num_steps: PositiveInt

    def at(self, step: int) -> float | Tensor:
        """The number in the step before which the trainer has made ``step`` others.

        In what ``torch.compile`` compiles it is a tensor, so that nothing is compiled anew for the next step.
        """
        reached: float | Tensor
        if torch.compiler.is_compiling():
            reached = (torch.full((), step, dtype=torch.float64) / self.num_steps).clamp(max=1.0)
        else:
            reached = min(step / self.num_steps, 1.0)
        return self.start + (self.end - self.start) * reached


def at_step(number: float | LinearSchedule, step: int) -> float | Tensor:
    """A number, or what its schedule says for a step."""
    return number.at(step) if isinstance(number, LinearSchedule) else number


def largest(number: float | LinearSchedule) -> float:
    """A number, or the largest one that its schedule comes to."""
    return max(number.start, number.end) if isinstance(number, LinearSchedule) else number


@dataclass(frozen=True)
class _EndsWithin:
    """Refuses a number out of a range, and a schedule with an end out of it."""

    ge: float
    le: float = inf

    def __call__(self, number: float | LinearSchedule) -> float | LinearSchedule:
        ends = (number.start, number.end) if isinstance(number, LinearSchedule) else (number,)
        if not all(self.ge <= end <= self.le for end in ends):
            raise ValueError(f"expected {self.ge:g} to {self.le:g}, also at both ends of a schedule, got {number!r}")
        return number


def _require_no_function(given: Any) -> Any:
    if inspect.isroutine(given):
        raise ValueError(f"expected a number or LinearSchedule(start=..., end=..., num_steps=...), got {given!r}")
    return given


_NoFunction = BeforeValidator(_require_no_function)
ScheduledFraction = Annotated[float | LinearSchedule, AfterValidator(_EndsWithin(0.0, 1.0)), _NoFunction]
ScheduledNonNegative = Annotated[float | LinearSchedule, AfterValidator(_EndsWithin(0.0)), _NoFunction]
