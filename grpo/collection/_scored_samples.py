"""Samples with their rewards, on the way into an experience."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from grpo.data._checks import require_strided
from grpo.data.action_batches import ActionBatch
from grpo.data.batches import join_groups, select_entries
from grpo.data.experience import GroupedRewards
from grpo.data.segments import Segments
from grpo.distributed.world import ALONE, World
from grpo.models._checks import check_rewards
from grpo.models._masks import describe, is_mask
from grpo.models.reward_model import PartialRewards


@dataclass(frozen=True)
class ScoredSamples:
    """Samples in groups, with what the reward model says of them.

    Attributes:
        states: the state of each sample, N entries.
        actions: the action of each sample, N entries.
        groups: the N samples cut into groups that answer the same state.
        rewards: [N] or [D], as the reward model gave them.
        segments: the rewards cut into samples; None where they are still to be checked.
        batch: the same samples encoded for the policy; None where they are still to be encoded.
        metrics: what is to be reported of them.
        slots: of each group, [S], its place among those that were to be sampled; None for the order that they are in.
        world: the processes, each of which has samples of its own, or none.
    """

    states: Any
    actions: Any
    groups: Segments
    rewards: Any
    segments: Segments | None = None
    batch: ActionBatch | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    slots: Tensor | None = None
    world: World = ALONE

    @classmethod
    def none(cls, world: World) -> ScoredSamples:
        """Those of a process that has none while others have."""
        return cls([], [], Segments(0, 1), torch.zeros(0), Segments(0, 1), world=world)

    @classmethod
    def of(cls, states: Any, actions: Any, groups: Segments, rewards: Tensor | PartialRewards) -> ScoredSamples:
        """Those samples that were scored; a group without any is gone.

        Example:
            >>> rewards = PartialRewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, True]))
            >>> scored = ScoredSamples.of(["s", "s", "t", "t"], [1, 2, 3, 4], Segments(2, 2), rewards)
            >>> scored.actions, scored.groups.lengths, scored.rewards, scored.metrics
            ([1, 3, 4], tensor([1, 2]), tensor([1., 3., 4.]), {'num_unscored': 1.0})
        """
        if not isinstance(rewards, PartialRewards):
            return cls(states, actions, groups, rewards)
        values, scored = check_partial_rewards(rewards, len(actions)), rewards.scored
        kept = scored.nonzero().squeeze(1)
        sizes = groups.to(scored.device).sum(scored.float()).long()
        return cls(
            select_entries(states, kept),
            select_entries(actions, kept),
            Segments.of_lengths(sizes[sizes > 0]),
            values[kept],
            metrics={"num_unscored": float(len(scored) - len(kept))},
            slots=(sizes > 0).nonzero().squeeze(1),
        )

    def checked(self, segments: Segments, batch: ActionBatch | None = None) -> ScoredSamples:
        """The same with rewards of which it is known that ``segments`` cuts them into samples."""
        rewards = check_rewards(self.rewards, segments)
        return replace(self, groups=self.groups.to(segments.device), rewards=rewards, segments=segments, batch=batch)

    @cached_property
    def sample_rewards(self) -> GroupedRewards:
        """Reward of each sample, the sum over its decisions where rewards came per decision."""
        assert self.segments is not None
        return GroupedRewards(self.segments.sum(self.rewards), self.groups, self.world)

    @cached_property
    def has_spread(self) -> Tensor:
        """Whether the rewards of each group differ, bool of shape [S]."""
        return self.sample_rewards.std > 0

    @property
    def group_states(self) -> Any:
        """The state of each group, S entries."""
        return select_entries(self.states, self.groups.starts)

    def select_groups(self, chosen: Tensor) -> ScoredSamples:
        """Only the groups where ``chosen``, bool of shape [S], is true; all of them come with what is encoded."""
        return self if chosen.all() else self._take(chosen.nonzero().squeeze(1))

    def in_order(self) -> ScoredSamples:
        """The groups by their slots."""
        if self.slots is None or bool((self.slots.diff() >= 0).all()):
            return self
        return self._take(self.slots.argsort(stable=True))

    def _take(self, groups: Tensor) -> ScoredSamples:
        assert self.segments is not None
        samples = self.groups.positions(groups)
        return ScoredSamples(
            select_entries(self.states, samples),
            select_entries(self.actions, samples),
            self.groups.select(groups),
            self.rewards[self.segments.positions(samples)],
            self.segments.select(samples),
            slots=None if self.slots is None else self.slots[groups],
            world=self.world,
        )

    @classmethod
    def joined(cls, parts: Sequence[ScoredSamples]) -> ScoredSamples:
        """The groups of all parts, one part after the other."""
        parts = [part for part in parts if len(part.groups) > 0] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        segments = [part.segments for part in parts if part.segments is not None]
        per_sample = len({len(part.rewards) == len(part.actions) for part in parts}) > 1
        if per_sample:
            segments = [Segments(len(part.actions), 1, part.rewards.device) for part in parts]
        return cls(
            join_groups([part.states for part in parts]),
            join_groups([part.actions for part in parts]),
            Segments.of_lengths(torch.cat([part.groups.lengths for part in parts])),
            torch.cat([part.sample_rewards.values if per_sample else part.rewards for part in parts]),
            Segments.of_lengths(torch.cat([part.lengths for part in segments])),
            slots=torch.cat([part.slots for part in parts if part.slots is not None]),
            world=parts[0].world,
        )


def require_scored(scored: ScoredSamples, world: World = ALONE) -> ScoredSamples:
    """The same samples, of which there must be some on any process; counts are of all processes."""
    told = world.gather((len(scored.actions), scored.metrics))
    names = {name for _, metrics in told for name in metrics}
    metrics = {name: sum(metrics.get(name, 0.0) for _, metrics in told) for name in sorted(names)}
    if sum(count for count, _ in told) == 0:
        if metrics.get("num_unscored"):
            raise ValueError(
                f"compute_rewards scored none of the {metrics['num_unscored']:.0f} samples, so there is nothing to "
                f"learn from: see why the reward model fails, or leave out this step"
            )
        raise ValueError("states is empty on all processes, expected at least one: there is nothing to learn from")
    return replace(scored, metrics=metrics)


def check_partial_rewards(rewards: PartialRewards, num_samples: int) -> Tensor:
    """The rewards of N samples, [N], with 0 where a sample was not scored."""
    scored, values = rewards.scored, rewards.values
    samples = Segments(num_samples, 1, scored.device if isinstance(scored, Tensor) else None)
    if not is_mask(scored, samples):
        raise ValueError(
            f"compute_rewards returned PartialRewards with scored {describe(scored)}, expected a bool tensor of shape "
            f"[{num_samples}]: whether each sample was scored"
        )
    if isinstance(values, Tensor):
        require_strided("compute_rewards returned", values)
        if values.shape == scored.shape and values.device == scored.device:
            values = values.masked_fill(~scored, 0)
    return check_rewards(values, samples)
