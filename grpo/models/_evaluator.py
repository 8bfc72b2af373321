"""A policy's evaluation of a batch, whole or by rows, checked on its way into the core."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from grpo.data._protocols import missing_methods, type_name
from grpo.data.action_batches import ActionBatch
from grpo.data.batches import own_copy, select_entries
from grpo.data.evaluation import Evaluation, ValueEstimates
from grpo.data.segments import Segments
from grpo.distributed.world import ALONE, World
from grpo.models._checks import (
    check_action_batch,
    check_decision_values,
    check_evaluation,
    check_gradient_connection,
    check_values,
)
from grpo.models._pairwise import PairwisePolicy, as_sequential
from grpo.models.policy import ActorCriticPolicy, ComputesTogether, EncodesGroups, PolicyModel, SequentialPolicy


class Evaluator:
    """A policy as the core sees it: it encodes samples once and evaluates rows of them.

    Args:
        policy: any policy; a minimal one is upgraded here, once.
        role: what to call it in errors.
        name_sample: what to call a sample in errors, by its index.
        world: the processes that evaluate their samples with it.
    """

    def __init__(
        self,
        policy: PolicyModel[Any, Any],
        role: str = "policy",
        name_sample: Callable[[int], str] = "sample {}".format,
        world: World = ALONE,
    ) -> None:
        self.model = policy
        self.policy = as_sequential(policy, role)
        method = "get_log_probabilities" if isinstance(self.policy, PairwisePolicy) else "evaluate_actions"
        self.source = f"{role}.{method}"
        self.role = role
        self._encodes_groups = not missing_methods(policy, EncodesGroups)
        if self._encodes_groups and (missing := missing_methods(policy, SequentialPolicy)):
            raise TypeError(
                f"{role} {type_name(policy)} has encode_groups, but lacks {', '.join(missing)}: add "
                f"{'them' if len(missing) > 1 else 'it'}, as grpo.SequentialPolicy documents"
            )
        self.name_sample = name_sample
        self._world = world
        self.computes_together = not world.is_alone and not missing_methods(policy, ComputesTogether)

    @property
    def has_others(self) -> bool:
        """Whether there are other processes."""
        return not self._world.is_alone

    @property
    def has_critic(self) -> bool:
        """Whether the policy estimates values."""
        return not missing_methods(self.model, SequentialPolicy) and not missing_methods(self.model, ActorCriticPolicy)

    def require_critic(self, reader: object) -> None:
        """Raise a TypeError where the policy has no critic; ``reader`` is what needs it."""
        missing = missing_methods(self.model, SequentialPolicy) + missing_methods(self.model, ActorCriticPolicy)
        if missing:
            raise TypeError(
                f"{type_name(reader)} needs a critic, but {self.role} {type_name(self.model)} has none: add "
                f"{', '.join(missing)} and return values from evaluate_actions, as grpo.ActorCriticPolicy documents, "
                f"or choose an algorithm without one, such as grpo.GRPOTrainer or grpo.ReinforceTrainer"
            )

    def encode(self, states: Any, actions: Any, groups: Segments) -> ActionBatch:
        """N samples made ready for evaluation; the policy is given copies, which it may change.

        Args:
            states: the state of each sample, N entries.
            actions: the action of each sample, N entries.
            groups: the N samples cut into groups that answer the same state.
        """
        policy: Any = self.policy
        actions = own_copy(actions)
        if self._encodes_groups:
            batch = policy.encode_groups(own_copy(select_entries(states, groups.starts)), actions, groups)
            return check_action_batch(batch, groups.total, f"{self.role}.encode_groups")
        batch = policy.encode_actions(own_copy(states), actions)
        return check_action_batch(batch, groups.total, f"{self.role}.encode_actions")

    def estimate_values(self, batch: ActionBatch) -> ValueEstimates:
        """What the critic expects at all decisions, to keep: nothing that the policy computes later changes it."""
        critic: Any = self.policy
        if len(batch.rows) == 0:
            if self.computes_together:
                self.evaluate_nothing(1)
            return ValueEstimates(self._nothing(batch), self._nothing(batch))
        estimates = check_values(
            critic.estimate_values(batch),
            batch.samples,
            f"{self.role}.estimate_values",
            partial(self.locate, batch, None),
        )
        return ValueEstimates(estimates.values.clone(), estimates.next_values.clone())

    def sampling_log_probs(self, batch: ActionBatch) -> Tensor | None:
        """Log-probs that the decisions were drawn with, [D], to keep; None where the batch does not tell."""
        log_probs = getattr(batch, "sampling_log_probs", None)
        if log_probs is None:
            return None
        source, locate = f"{self.role}'s batch", partial(self.locate, batch, None)
        return check_decision_values(source, "sampling_log_probs", log_probs, batch.samples, locate).detach().clone()

    def evaluate(
        self, batch: ActionBatch, rows: Tensor | None = None, *, requires_gradient: bool = False
    ) -> Evaluation:
        """Evaluation of the given rows, in the order given; of all rows for None.

        Args:
            batch: the samples.
            rows: int64 of shape [K].
            requires_gradient: whether the log-probs must depend on parameters.
        """
        part, segments = self.selected(batch, rows)
        return self.evaluation_of(
            part, segments, partial(self.locate, batch, rows), requires_gradient=requires_gradient
        )

    def selected(self, batch: ActionBatch, rows: Tensor | None) -> tuple[ActionBatch, Segments]:
        """The given rows as a batch of their own, and their decisions; all of them for None."""
        return (batch, batch.rows) if rows is None else (batch.select(rows), batch.rows.select(rows))

    def evaluation_of(
        self, part: ActionBatch, rows: Segments, locate: Callable[[int], str], *, requires_gradient: bool
    ) -> Evaluation:
        """Evaluation of all ``rows`` of a batch; ``locate`` tells where a decision comes from, to name in errors."""
        evaluation = check_evaluation(self.policy.evaluate_actions(part), rows, self.source, locate)
        if requires_gradient:
            check_gradient_connection(evaluation.log_probs, self.source)
        return evaluation

    @torch.no_grad()
    def log_probs(self, batch: ActionBatch, rows_per_call: int | None) -> Tensor:
        """Log-probs of all decisions, [D], nats, without gradient, to keep."""
        num_rows = len(batch.rows)
        if rows_per_call is None or rows_per_call >= num_rows:
            parts: list[Tensor | None] = [None] if num_rows > 0 else []
        else:
            parts = list(torch.arange(num_rows, device=batch.rows.device).split(rows_per_call))
        num_of_others = self.num_calls_of_others(len(parts))
        log_probs = [self.evaluate(batch, part).log_probs.clone() for part in parts]
        self.evaluate_nothing(num_of_others)
        if not log_probs:
            return self._nothing(batch)
        return log_probs[0] if len(log_probs) == 1 else torch.cat(log_probs)

    def num_calls_of_others(self, num_calls: int) -> int:
        """How many evaluations another process makes after the ``num_calls`` of this one; asked before the first."""
        return int(self._world.maximum(torch.tensor(num_calls))) - num_calls if self.computes_together else 0

    def _nothing(self, batch: ActionBatch) -> Tensor:
        """The log-probs of no decisions, [0], as precise as the parameters."""
        doubles = any(tensor.dtype == torch.float64 for tensor in self.model.get_parameters().values())
        return torch.zeros(0, dtype=torch.float64 if doubles else torch.float32, device=batch.samples.device)

    def evaluate_nothing(self, num_calls: int) -> None:
        """Take part in so many evaluations of other processes."""
        for _ in range(num_calls):
            cast("ComputesTogether", self.model).evaluate_nothing()

    def check_same_segments(self, batch: ActionBatch, other: ActionBatch) -> None:
        """This policy's batch must have its decisions where the batch of the policy that is trained has them."""
        if not batch.samples.same_cut(other.samples):
            raise ValueError(
                f"{self.role} sees {batch.samples.total} decisions in {len(other.samples)} samples, the policy "
                f"{other.samples.total}, or cut otherwise: both must encode actions in the same way"
            )

    def locate(self, batch: ActionBatch, rows: Tensor | None, position: int) -> str:
        """Where the decision at ``position`` of the given rows comes from, to name in an error."""
        if rows is not None:
            position = int(batch.rows.positions(rows)[position])
        sample = int(batch.samples.ids[position])
        if batch.samples.total == len(batch.samples):
            return self.name_sample(sample)
        return f"{self.name_sample(sample)} (its decision {position - int(batch.samples.starts[sample])})"
