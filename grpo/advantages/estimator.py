"""The protocol of an advantage estimator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.data._protocols import missing_methods
from grpo.data.experience import Experience


@dataclass(frozen=True, slots=True)
class AdvantageEstimate:
    """Advantages, and what an estimator may know besides.

    Attributes:
        advantages: of the samples, [N], or of their decisions, [D].
        returns: what a critic should have expected, [N] or [D]; None where the estimator does not say, so that no
            critic can be trained with it.
        metrics: what the estimator reports, floats by name.

    Example:
        >>> class OverTheCritic:  # pass an instance as advantage_estimator; the critic learns to expect the rewards
        ...     def __call__(self, experience):
        ...         return self.estimate(experience).advantages
        ...     def estimate(self, experience):
        ...         rewards = experience.decision_rewards
        ...         return AdvantageEstimate(rewards - experience.values.values, returns=rewards)
    """

    advantages: Tensor
    returns: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class AdvantageEstimator(Protocol):
    """Anything that can be called with an experience and returns its advantages: a plain function will do.

    An attribute ``needs`` (:class:`grpo.Needs`) says what it reads of the experience; without one it is given whatever
    there is. What changes in an estimator from step to step changes in a method ``adapt`` (:class:`grpo.Adapts`), so
    that a failed step leaves it as it was, and is told by ``state_dict`` and ``load_state_dict``.

    Example:
        >>> def reward_above_half(experience: Experience) -> Tensor:
        ...     return experience.sample_rewards.values - 0.5
    """

    def __call__(self, experience: Experience, /) -> Tensor:
        """Advantages of the samples, [N], or of their decisions, [D]."""
        ...


@runtime_checkable
class EstimatesReturns(Protocol):
    """An estimator that knows more than advantages: what a critic should have expected, or something to report."""

    def estimate(self, experience: Experience) -> AdvantageEstimate:
        """Advantages and what is known besides; a trainer calls it in place of the estimator itself."""
        ...


def estimate_of(estimator: AdvantageEstimator, experience: Experience) -> AdvantageEstimate:
    """What an estimator makes of an experience."""
    if missing_methods(estimator, EstimatesReturns):
        try:
            return AdvantageEstimate(estimator(experience))
        except (AttributeError, TypeError) as error:
            error.add_note(
                "an estimator is given an Experience; a function of GroupedRewards goes into GroupRelative(...)"
            )
            raise
    return cast("EstimatesReturns", estimator).estimate(experience)
