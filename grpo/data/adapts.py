"""Parts of a trainer that change from step to step."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import Protocol, runtime_checkable

from grpo.data.experience import Experience


@runtime_checkable
class Adapts(Protocol):
    """An estimator or an objective that changes from step to step: a coefficient that follows a divergence, say."""

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        """Take a step into account. Called once, at the end of a step that succeeded.

        Args:
            experience: what the step learnt from.
            metrics: of the step.
        """
        ...
