"""Parts of a trainer that are told how many processes there are."""

from __future__ import annotations

from typing_extensions import Protocol, runtime_checkable

from grpo.distributed.world import World


@runtime_checkable
class JoinsWorld(Protocol):
    """A policy, a reward model or a sampler that does something else as one of several.

    It seeds environments apart from those of other processes (:meth:`grpo.World.own_seed`), or adds up statistics of
    what all of them have seen: a policy that joins, and that is :class:`grpo.FollowsData`, is given the samples of its
    own process only, in the same call on all of them.
    """

    def join_world(self, world: World) -> None:
        """Be one of several. Called once, when a trainer of more than one process is made."""
        ...
