"""The data that flows through a step, all of it flat: N samples, their D decisions end to end, R rows to evaluate.

A *sample* is one action given to one state. It is made of one or more *decisions*: a pull of a bandit's arm, the
tokens of a completion, the steps of an episode. A *row* is the least that a policy can evaluate by itself: a whole
sample, or one decision where decisions are independent given what was observed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    """

    log_probs: Tensor
    entropy: Tensor | None = None


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
    """

    states: Batch[Any]
    actions: Batch[Any]
    batch: ActionBatch
    groups: Segments
    rewards: Tensor
    old_log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None

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
    def sample_rewards(self) -> GroupedRewards:
        """Reward of each sample, the sum over its decisions where rewards came per decision."""
        per_sample = self.rewards.shape[0] == self.samples.count
        return GroupedRewards(self.rewards if per_sample else self.samples.sum(self.rewards), self.groups)


@dataclass(frozen=True, slots=True)
class Decisions:
    """What an objective knows of each decision besides the policy's evaluation of it, flat over D.

    Attributes:
        advantages: how much better than expected the decision turned out, [D].
        old_log_probs: log-probs under the policy that sampled, [D], nats; None where that is the very policy being
            evaluated, so that the ratio is 1.
        reference_log_probs: log-probs under the reference policy, [D], nats; None without one.
        samples: the decisions of each sample; of use to objectives that require whole samples only, since a
            minibatch of rows may hold a part of a sample.
    """

    advantages: Tensor
    old_log_probs: Tensor | None
    reference_log_probs: Tensor | None
    samples: Segments


@dataclass(frozen=True, slots=True)
class Terms:
    """A loss and what to report of it, per decision.

    Attributes:
        loss: [D], differentiable, elementwise: the trainer alone weights and sums it.
        metrics: [D] each, without gradient; the trainer averages them with the weights of the loss.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
