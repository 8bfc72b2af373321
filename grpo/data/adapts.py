"""Parts of a trainer that change from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from typing_extensions import Protocol, runtime_checkable

from grpo.data._protocols import missing_methods
from grpo.data.experience import Experience
from grpo.data.needs import needs_of


@runtime_checkable
class Adapts(Protocol):
    """An estimator or an objective that changes from step to step: a coefficient that follows a divergence, say.

    What changes in it is to be told by ``state_dict`` and ``load_state_dict`` (:class:`grpo.Stateful`): a failed step
    could not put it back otherwise, nor a saved training hold it.
    """

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        """Take a step into account. Called once, at the end of a step that succeeded.

        Args:
            experience: what the step learnt from.
            metrics: of the step.
        """
        ...


def adapts(part: object) -> bool:
    """Whether a part changes from step to step: it has a method for it, and does not declare that it does not."""
    return not missing_methods(part, Adapts) and needs_of(part).adapts is not False


def adapt(part: object, experience: Experience, metrics: Mapping[str, float]) -> None:
    """Let a part take a step into account, where it changes from step to step."""
    if adapts(part):
        cast("Adapts", part).adapt(experience, metrics)
