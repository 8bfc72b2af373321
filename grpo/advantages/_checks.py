"""Checks of an advantage estimator."""

from __future__ import annotations

from torch import Tensor

from grpo.advantages.estimator import AdvantageEstimate
from grpo.advantages.group_relative import GROUP_FUNCTIONS
from grpo.data._protocols import type_name
from grpo.data.segments import Segments
from grpo.models._checks import check_values_of_samples


def check_takes_experience(name: str, estimator: object) -> None:
    """An estimator takes an experience; the functions of rewards in groups do not."""
    if isinstance(estimator, type) or not callable(estimator):
        raise TypeError(f"{name} is {estimator!r}, expected an instance or a function that can be called")
    if any(function is estimator for function in GROUP_FUNCTIONS):
        function = getattr(estimator, "__name__", "")
        raise TypeError(f"{name} is {function}, a function of rewards in groups: pass GroupRelative({function})")


def check_estimate(returned: object, samples: Segments) -> AdvantageEstimate:
    """What an estimator returned, with advantages, and returns where it tells any, of the decisions, [D], detached."""
    if not isinstance(returned, AdvantageEstimate):
        raise TypeError(
            f"advantage_estimator.estimate returned a {type_name(returned)}, expected a "
            f"grpo.AdvantageEstimate(advantages, returns, metrics)"
        )
    returns = returned.returns
    return AdvantageEstimate(
        _of_decisions("advantage_estimator", returned.advantages, samples),
        None if returns is None else _of_decisions("advantage_estimator's returns", returns, samples),
        returned.metrics,
    )


def _of_decisions(source: str, values: object, samples: Segments) -> Tensor:
    checked = check_values_of_samples(source, values, samples)
    return checked if checked.shape[0] == samples.total else samples.expand(checked)
