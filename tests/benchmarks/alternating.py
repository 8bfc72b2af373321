"""Time two or more jobs in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds(jobs: Mapping[str, Callable[[], object]], *, rounds: int, calls: int) -> dict[str, float]:
    """Median over ``rounds`` of the mean seconds of one call, each round running every job ``calls`` times in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            for _ in range(calls):
                job()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(values) for name, values in seconds.items()}
