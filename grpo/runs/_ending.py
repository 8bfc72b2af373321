"""Why a run is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from grpo.runs.until import Until

COUNTERS = ("num_steps", "num_samples", "num_decisions", "seconds")


class Told(NamedTuple):
    """What a process tells the others after each step."""

    seconds: float
    stopped_by: str | None
    fulfils: bool
    signal: str | None
    is_written: bool
    num_states: int


def why_over(until: Until, counters: Mapping[str, float], told: Sequence[Told]) -> str | None:
    """What has ended a run on any of its processes; None while it goes on.

    Args:
        until: when it is to be over.
        counters: what was counted so far, as all processes have it.
        told: by each process.
    """
    signals = [each.signal for each in told if each.signal is not None]
    stops = [each.stopped_by for each in told if each.stopped_by]
    bounds = {name: getattr(until, name.removeprefix("num_")) for name in COUNTERS}
    reached = [
        f"{name.removeprefix('num_')}={bound}"
        for name, bound in bounds.items()
        if bound is not None and counters[name] >= bound
    ]
    conditions = ["condition" for each in told if each.fulfils]
    return next(iter(signals + stops + reached + conditions), None)
