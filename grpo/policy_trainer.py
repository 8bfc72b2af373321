"""What every trainer has: optimiser steps on a policy's parameters, of which a failed one leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from grpo.config import UpdateConfig
from grpo.decisions import Terms
from grpo.diagnosis import describe_bad_gradient
from grpo.evaluator import Evaluator
from grpo.experience import ActionBatch
from grpo.metrics import UpdateMetrics
from grpo.minibatches import WeightedRows
from grpo.optimization import check_parameters, check_reference, follow_schedule, make_step, optimizer_over
from grpo.policy_base import ActionsT, PolicyModel, StatesT
from grpo.reference_sync import check_has_own_parameters, mix_parameters
from grpo.rollback import RestoresTraining, drop_gradients
from grpo.validation import NonFiniteError

MicroBatchT = TypeVar("MicroBatchT", bound=WeightedRows)


class PolicyTrainer(Generic[StatesT, ActionsT]):
    """A policy, the optimizer over its parameters, and the reference policy that may follow it.

    Args:
        config: how parameters are changed.
        evaluator: the policy to train.
        reference_policy: the policy to stay near to, or None.
        optimizer: over the policy's parameters, or None for AdamW.
        models: everything that is to be moved to ``config.device`` and may draw random numbers.
    """

    def __init__(
        self,
        config: UpdateConfig,
        evaluator: Evaluator,
        reference_policy: PolicyModel[StatesT, ActionsT] | None,
        optimizer: torch.optim.Optimizer | None,
        models: Sequence[Any],
    ) -> None:
        policy: PolicyModel[StatesT, ActionsT] = evaluator.given
        if config.device is not None:
            for model in models:
                model.to(config.device)
        all_parameters = check_parameters(policy.get_parameters(), "policy")
        parameters = {name: tensor for name, tensor in all_parameters.items() if tensor.requires_grad}
        reference_parameters = None
        if reference_policy is not None:
            reference_parameters = check_parameters(reference_policy.get_parameters(), "reference_policy")
            check_reference(parameters, reference_parameters)
        if config.reference_sync is not None:
            check_has_own_parameters(reference_parameters, all_parameters)

        self.config = config
        self.policy = policy
        self.reference_policy = reference_policy
        self.optimizer = optimizer_over(parameters, optimizer, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.num_steps = 0
        self._evaluator = evaluator
        self._parameters = parameters
        doubles = any(parameter.dtype == torch.float64 for parameter in parameters.values())
        self._weights_dtype = torch.float64 if doubles else torch.float32
        self._random_models = [*models, self]

    @contextmanager
    def _updating(self, *, copies: bool) -> Iterator[None]:
        """In training mode; what fails within the block takes back the updates made in it, as far as copies allow."""
        self._evaluator.policy.train()
        with torch.enable_grad(), RestoresTraining(self.optimizer, self._parameters.values(), copies=copies):
            follow_schedule(self.optimizer, self.config, self.num_steps)
            yield

    def _minimise(
        self,
        batch: ActionBatch,
        minibatches: Iterable[list[MicroBatchT]],
        terms_of: Callable[[MicroBatchT], Terms],
        metrics: UpdateMetrics,
        stops: Callable[[UpdateMetrics], bool] | None = None,
    ) -> None:
        """Make an optimiser step for each minibatch.

        Args:
            batch: what the rows of the micro-batches are rows of.
            minibatches: the micro-batches of each optimiser step; an empty list is a step that is left out.
            terms_of: the loss of a micro-batch, with an entry for each of its weights.
            metrics: is told of each step.
            stops: looks at the gradients' metrics and says whether this step and all others are left out.
        """
        for minibatch in minibatches:
            if not minibatch:
                metrics.skip_step()
                continue
            try:
                self._accumulate_gradients(minibatch, terms_of, metrics)
                if stops is not None and stops(metrics):
                    break
                metrics.end_step(self._apply_gradients(batch, minibatch))
            except NonFiniteError:
                if self.config.non_finite == "raise":
                    raise
                metrics.skip_step()

    def _accumulate_gradients(
        self, minibatch: list[MicroBatchT], terms_of: Callable[[MicroBatchT], Terms], metrics: UpdateMetrics
    ) -> None:
        drop_gradients(self.optimizer, self._parameters.values())
        for micro_batch in minibatch:
            terms = terms_of(micro_batch)
            loss = torch.dot(micro_batch.weight.to(terms.loss.dtype), terms.loss)
            if self.optimizer is not None:
                loss.backward()
            metrics.add_micro_batch(micro_batch, terms.metrics, loss.detach())

    def _apply_gradients(self, batch: ActionBatch, minibatch: Sequence[WeightedRows]) -> float | None:
        """Make the optimiser step; the norm of the gradient before it was scaled down, None without parameters."""
        if self.optimizer is None:
            return None
        try:
            return make_step(self.optimizer, self.config.max_grad_norm, self._evaluator.source)
        except NonFiniteError as error:
            description = describe_bad_gradient(self._evaluator, self._parameters, batch, minibatch)
            raise NonFiniteError(description) from error

    def _end_step(self) -> None:
        """Count the step, and let the reference policy follow where it is to."""
        self.num_steps += 1
        sync = self.config.reference_sync
        if sync is not None and self.num_steps % sync.every == 0:
            assert self.reference_policy is not None
            mix_parameters(self.reference_policy.get_parameters(), self.policy.get_parameters(), sync.mixing)

    @property
    def _learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"]) if self.optimizer is not None else 0.0
