"""A policy's statistics of what it has seen."""

from __future__ import annotations

from typing import Any, cast

from grpo.data._protocols import missing_methods
from grpo.data.action_batches import ActionBatch
from grpo.distributed.joins import JoinsWorld
from grpo.distributed.world import World
from grpo.models.policy import FollowsData, StartsFromData


class PolicyStatistics:
    """What a policy that is :class:`grpo.FollowsData` is told.

    Args:
        policy: any policy; of one that follows no data nothing is asked.
        world: the processes, whose samples all count.
    """

    def __init__(self, policy: Any, world: World) -> None:
        self._policy = policy
        self._world = world
        self.follow = not missing_methods(policy, FollowsData)
        self._starts_from_data = not missing_methods(policy, StartsFromData)
        self._adds_up = not missing_methods(policy, JoinsWorld)

    def are_wanted(self) -> bool:
        """Whether the first ones are to be there before the updates."""
        return self._starts_from_data and not cast("StartsFromData", self._policy).has_statistics()

    def update(self, batch: ActionBatch) -> None:
        """Take the samples of all processes into account, where the policy follows data."""
        if not self.follow:
            return
        for part in [batch] if self._adds_up else self._world.gather(batch):
            if self._adds_up or len(part.samples) > 0:
                self._policy.update_statistics(part)
