"""Objects that tell what they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Protocol, runtime_checkable


@runtime_checkable
class TellsSettings(Protocol):
    """A policy, a reward model, a sampler, or a part of one, that tells the settings by which its results change.

    :meth:`grpo.Run.resume` compares them with those that the checkpoint was written with, and the processes of a
    training compare theirs. ``run.json`` has them. What changes in the course of a training belongs into a state
    (:class:`grpo.Stateful`), and what only changes how fast it goes into neither. Frozen models of pydantic's need not
    tell.

    Example:
        >>> class Cooler:
        ...     def __init__(self, temperature):
        ...         self.temperature = temperature
        ...     def get_settings(self):
        ...         return {"temperature": self.temperature}
        >>> isinstance(Cooler(0.5), TellsSettings)
        True
    """

    def get_settings(self) -> Mapping[str, Any]:
        """Settings by name: plain data, functions, frozen models, or objects that tell theirs in turn."""
        ...
