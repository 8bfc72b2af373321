"""Samples with their rewards, in groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from grpo.data.action_batches import ActionBatch
from grpo.data.batches import Batch
from grpo.data.evaluation import ValueEstimates
from grpo.data.segments import Segments
from grpo.distributed.world import ALONE, World


@dataclass(frozen=True)
class GroupedRewards:
    """Rewards of N samples, and how they compare within the S groups that answer the same state.

    Attributes:
        values: the rewards, [N].
        groups: the N samples cut into groups.
        world: the processes, each of which has groups of its own.

    Raises:
        TypeError: if the rewards are no tensor of floating-point numbers.
        ValueError: if they are not as many as the groups hold.

    Example:
        >>> import torch
        >>> rewards = GroupedRewards(torch.tensor([1.0, 2.0, 3.0, 7.0]), Segments.of_lengths([3, 1]))
        >>> rewards.centered, rewards.std
        (tensor([-1.,  0.,  1.,  0.]), tensor([1., 0.]))
    """

    values: Tensor
    groups: Segments
    world: World = field(default=ALONE, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be compared within groups."""
        if not isinstance(self.values, Tensor) or not self.values.is_floating_point():
            kind = str(self.values.dtype) if isinstance(self.values, Tensor) else type(self.values).__name__
            raise TypeError(f"values of GroupedRewards are {kind}, expected a tensor such as torch.tensor([1.0, 2.0])")
        if self.values.shape != (self.groups.total,):
            raise ValueError(
                f"values of GroupedRewards have shape {list(self.values.shape)}, expected [{self.groups.total}], one "
                f"for each entry of the groups"
            )

    @cached_property
    def centered(self) -> Tensor:
        """Reward minus the mean of its group, [N]; exactly 0 in a group of equal rewards."""
        return self.groups.center(self.values)

    @cached_property
    def std(self) -> Tensor:
        """Unbiased standard deviation in each group, [S]; 0 in a group of one."""
        norm = self.groups.norm(self.centered)
        if self.groups.uniform_length is not None:
            return norm / math.sqrt(max(self.groups.uniform_length - 1, 1))
        return norm / (self.groups.lengths - 1).clamp(min=1).to(norm.dtype).sqrt()


@dataclass(frozen=True)
class Experience:
    """Samples with their rewards: what an advantage estimator reads and an update learns from.

    Attributes:
        states: the state of each sample, N entries.
        actions: the action of each sample, N entries.
        batch: the same samples encoded for the policy.
        groups: the N samples cut into groups that answer the same state; they may differ in size.
        rewards: [N], one a sample, or [D], one a decision, as the reward model gave them.
        old_log_probs: log-probs under the policy that sampled, [D], nats; None where they were not needed, since
            the only update of the rollout starts from that very policy.
        reference_log_probs: log-probs under the reference policy, [D], nats; None without one.
        values: what the policy's critic expects; None where nothing asks for it.
        sampling_log_probs: log-probs that the decisions were drawn with, [D], nats; None where the batch does not tell.
        metrics: what is to be reported of how the samples came together, by name.
        world: the processes, each of which has samples of its own, or none.
    """

    states: Batch[Any]
    actions: Batch[Any]
    batch: ActionBatch
    groups: Segments
    rewards: Tensor
    old_log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None
    values: ValueEstimates | None = None
    sampling_log_probs: Tensor | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    world: World = field(default=ALONE, repr=False)

    @property
    def samples(self) -> Segments:
        """The D decisions cut into N samples."""
        return self.batch.samples

    @property
    def group_of_sample(self) -> Tensor:
        """The group each sample belongs to, int64 of shape [N]."""
        return self.groups.ids

    @property
    def sample_of_decision(self) -> Tensor:
        """The sample each decision belongs to, int64 of shape [D]."""
        return self.samples.ids

    @cached_property
    def episodes(self) -> Segments:
        """The D decisions cut into episodes, or the pieces of them that were sampled; a sample each by default."""
        episodes: Segments = getattr(self.batch, "episodes", self.samples)
        return episodes

    @cached_property
    def turns(self) -> Segments:
        """The D decisions cut into turns, between which the environment answers; a decision each by default."""
        turns: Segments | None = getattr(self.batch, "turns", None)
        return Segments(self.samples.total, 1, self.samples.device) if turns is None else turns

    @property
    def truncated(self) -> Tensor | None:
        """Whether each sample was cut short, bool of shape [N]; None where the batch does not tell."""
        return getattr(self.batch, "truncated", None)

    @cached_property
    def sample_rewards(self) -> GroupedRewards:
        """Reward of each sample, the sum over its decisions where rewards came per decision."""
        per_sample = self.rewards.shape[0] == self.samples.count
        return GroupedRewards(self.rewards if per_sample else self.samples.sum(self.rewards), self.groups, self.world)

    @cached_property
    def decision_rewards(self) -> Tensor:
        """Reward of each decision, [D]; that of a sample comes with its last decision."""
        if self.rewards.shape[0] == self.samples.total:
            return self.rewards
        rewards = self.rewards.new_zeros(self.samples.total)
        rewards[self.samples.last] = self.rewards
        return rewards
