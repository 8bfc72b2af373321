"""The data that flows through a step, all of it flat: N samples, their D decisions end to end, R rows to evaluate.

A *sample* is one action given to one state. It is made of one or more *decisions*: a pull of a bandit's arm, the
tokens of a completion, the steps of an episode. A *row* is the least that a policy can evaluate by itself: a whole
sample, or one decision where decisions are independent given what was observed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.batches import Batch, select_entries
from grpo.segments import Segments


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy says of the D decisions of a batch.

    Attributes:
        log_probs: log π(a|s) of each decision, [D], nats, differentiable.
        entropy: entropy of the distribution that each decision was drawn from, [D], nats, differentiable; None where
            the policy does not know it.
        values: V(s), the return expected from each decision on, [D], differentiable; None without a critic.
    """

    log_probs: Tensor
    entropy: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ValueEstimates:
    """What a critic expects at each of the D decisions of a batch and right after it.

    Attributes:
        values: V(s_t), [D].
        next_values: V(s_{t+1}) of the true successor, [D]: 0 where the episode terminated, the successor's value where
            it was merely cut short.
    """

    values: Tensor
    next_values: Tensor


@runtime_checkable
class HasEpisodes(Protocol):
    """What an :class:`ActionBatch` may have besides, where a sample is not one whole episode."""

    @property
    def episodes(self) -> Segments:
        """The D decisions cut where the next one belongs to another episode, and at the end of every sample."""
        ...


@runtime_checkable
class HasTruncations(Protocol):
    """What an :class:`ActionBatch` may have besides, where samples can be cut short: at a maximal length, say."""

    @property
    def truncated(self) -> Tensor:
        """Whether each sample was cut short rather than came to its end, bool of shape [N]."""
        ...


@runtime_checkable
class ActionBatch(Protocol):
    """Samples made ready for evaluation: tokenised, stacked, padded, whatever the policy needs to do once a step.

    The decisions of a row are contiguous, those of a sample too, and rows and samples come in the same order.
    """

    @property
    def samples(self) -> Segments:
        """The D decisions cut into N samples. It lives on the device of the log-probs."""
        ...

    @property
    def rows(self) -> Segments:
        """The D decisions cut into R rows."""
        ...

    def select(self, rows: Tensor) -> Self:
        """The batch of the given rows, int64 of shape [K], in the order given; in it every row is a sample."""
        ...


class TensorBatch:
    """A ready batch for policies whose decisions are independent given an observation: every decision is a row.

    Args:
        observations: what each decision was based on, [D, ...].
        actions: what was decided, [D, ...].
        samples: the decisions of each sample; one each where left out.

    Raises:
        ValueError: if observations, actions and samples do not count the same decisions.

    Example:
        >>> import torch
        >>> batch = TensorBatch(torch.zeros(3, 4), torch.tensor([2, 0, 1]), Segments.of_lengths([2, 1]))
        >>> len(batch.samples), len(batch.rows), batch.select(torch.tensor([2, 0])).actions
        (2, 3, tensor([1, 2]))
    """

    __slots__ = ("actions", "observations", "rows", "samples")

    def __init__(self, observations: Tensor, actions: Tensor, samples: Segments | None = None) -> None:
        self.observations = observations
        self.actions = actions
        self.rows = Segments(actions.shape[0], 1, actions.device)
        self.samples = self.rows if samples is None else samples
        if not observations.shape[0] == actions.shape[0] == self.samples.total:
            raise ValueError(
                f"TensorBatch needs an observation and an action for every decision: got {len(observations)} "
                f"observations, {len(actions)} actions and samples of {self.samples.total} decisions"
            )

    def select(self, rows: Tensor) -> TensorBatch:
        """The decisions at ``rows``, each a sample of its own."""
        return TensorBatch(self.observations[rows], self.actions[rows])


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs of a state and an action for a minimal policy: every pair is one sample, one row and one decision.

    Attributes:
        states: the state of each pair, N entries.
        actions: the action of each pair, N entries.
        samples: one decision a sample.
    """

    states: Any
    actions: Any
    samples: Segments

    @property
    def rows(self) -> Segments:
        """One row a pair."""
        return self.samples

    def select(self, rows: Tensor) -> PairBatch:
        """The pairs at ``rows``."""
        return PairBatch(
            select_entries(self.states, rows), select_entries(self.actions, rows), self.samples.select(rows)
        )


@dataclass(frozen=True)
class GroupedRewards:
    """Rewards of N samples, and how they compare within the S groups that answer the same state.

    Attributes:
        values: the rewards, [N].
        groups: the N samples cut into groups.

    Example:
        >>> import torch
        >>> rewards = GroupedRewards(torch.tensor([1.0, 2.0, 3.0, 7.0]), Segments.of_lengths([3, 1]))
        >>> rewards.centered, rewards.std
        (tensor([-1.,  0.,  1.,  0.]), tensor([1., 0.]))
    """

    values: Tensor
    groups: Segments

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
        metrics: what is to be reported of how the samples came together, by name.
    """

    states: Batch[Any]
    actions: Batch[Any]
    batch: ActionBatch
    groups: Segments
    rewards: Tensor
    old_log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None
    values: ValueEstimates | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

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

    @property
    def truncated(self) -> Tensor | None:
        """Whether each sample was cut short, bool of shape [N]; None where the batch does not tell."""
        return getattr(self.batch, "truncated", None)

    @cached_property
    def sample_rewards(self) -> GroupedRewards:
        """Reward of each sample, the sum over its decisions where rewards came per decision."""
        per_sample = self.rewards.shape[0] == self.samples.count
        return GroupedRewards(self.rewards if per_sample else self.samples.sum(self.rewards), self.groups)

    @cached_property
    def decision_rewards(self) -> Tensor:
        """Reward of each decision, [D]; that of a sample comes with its last decision."""
        if self.rewards.shape[0] == self.samples.total:
            return self.rewards
        rewards = self.rewards.new_zeros(self.samples.total)
        rewards[self.samples.last] = self.rewards
        return rewards
