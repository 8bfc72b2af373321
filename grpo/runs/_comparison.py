"""Which of two values of a metric is better, where there is one of that name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

BestIs = Literal["highest", "lowest"]


def metrics_meant(name: str, known: Iterable[str], *, at_end: bool) -> str:
    """Those that a name which no metric has may mean: as soon as one is nearly that, at the end all; else nothing."""
    near = difflib.get_close_matches(name, known, n=3)
    return ", ".join(near or (sorted(known) if at_end else ()))


def is_better(value: float, best: float | None, best_is: BestIs) -> bool:
    """Whether a value is better than the best one so far, None before the first."""
    if best is None:
        return True
    return value > best if best_is == "highest" else value < best
