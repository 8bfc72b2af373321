"""Which of two values of a metric is better."""

from __future__ import annotations

from typing import Literal

BestIs = Literal["highest", "lowest"]


def is_better(value: float, best: float | None, best_is: BestIs) -> bool:
    """Whether a value is better than the best one so far, None before the first."""
    if best is None:
        return True
    return value > best if best_is == "highest" else value < best
