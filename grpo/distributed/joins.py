"""Parts of a trainer that are told how many processes there are."""

from __future__ import annotations

from typing_extensions import Protocol, runtime_checkable

from grpo.distributed.world import World


@runtime_checkable
class JoinsWorld(Protocol):
    """A policy, a reward model or a sampler that does something else as one of several.

    It seeds environments apart from those of other processes, or adds up statistics of what all of them have seen.
    """

    def join_world(self, world: World) -> None:
        """Be one of several. Called once, when a trainer of more than one process is made."""
        ...
