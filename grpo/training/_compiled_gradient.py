"""The gradient of some rows as one function, by ``torch.compile``."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo.data._protocols import type_name
from grpo.data.action_batches import ActionBatch
from grpo.data.decisions import Decisions, Terms
from grpo.data.needs import needs_of
from grpo.data.segments import Segments
from grpo.models._evaluator import Evaluator
from grpo.objectives._checks import check_terms
from grpo.training._metrics import ReportedSums, weighted_sums
from grpo.training._minibatches import MicroBatch

MOST_VERSIONS = 16


@dataclass(frozen=True, slots=True)
class CompiledTerms:
    """What is kept of the terms of some rows once they are differentiated.

    Attributes:
        reported: of the rows.
        gradients: of each tensor, in the order given; None where the loss does not depend on it.
    """

    reported: ReportedSums
    gradients: Sequence[Tensor | None]

    def add_to(self, tensors: Sequence[Tensor]) -> None:
        """Add the gradients to those that the tensors have."""
        taken = set()
        for tensor, gradient in zip(tensors, self.gradients, strict=True):
            if gradient is None:
                continue
            if tensor.grad is not None:
                tensor.grad.add_(gradient)
                continue
            memory = gradient.untyped_storage().data_ptr()
            if memory in taken or gradient.stride() != tensor.stride():  # it will be scaled in place
                gradient = torch.empty_like(tensor).copy_(gradient)
            taken.add(memory)
            tensor.grad = gradient


class CompiledGradient:
    """Evaluates rows, and differentiates their weighted loss, in one compiled function.

    Sizes and numbers are arguments of it, the count of the steps as well, which schedules read: nothing is compiled
    anew when they change, and what is computed does not depend on which of them came first.

    Args:
        evaluator: of the policy.
        objective: what is minimised.

    Raises:
        ValueError: if this PyTorch cannot do it, or the objective is of a kind for which it makes no sense.
    """

    def __init__(self, evaluator: Evaluator, objective: Any) -> None:
        _check(evaluator, objective)
        self._evaluator = evaluator
        self._objective = objective
        compiled: Any = torch.compile
        self._function = compiled(
            _differentiated,
            fullgraph=True,
            dynamic=True,
            options={"fallback_random": True},  # dropout draws as it does otherwise
            recompile_limit=MOST_VERSIONS,
            isolate_recompiles=True,
        )

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """While this is open what is not compiled yet can be; to open it for each call takes too long."""
        import torch._dynamo.config as dynamo

        with dynamo.patch(trace_autograd_ops=True, accumulated_recompile_limit=sys.maxsize):
            yield

    def __call__(
        self, batch: ActionBatch, micro_batch: MicroBatch, tensors: Sequence[Tensor], instead: Callable[[], Terms]
    ) -> CompiledTerms | Terms:
        """Evaluate some rows, and differentiate their loss by ``tensors``.

        Args:
            batch: all rows.
            micro_batch: those asked for.
            tensors: leaves.
            instead: does the same without compilation. It is asked where something is wrong, since it tells what.
        """
        part, rows = self._evaluator.selected(batch, micro_batch.rows)
        arguments = part, rows, micro_batch.decisions, micro_batch.weight, list(tensors)
        try:
            gradients, reported, total = self._function(self._evaluator, self._objective, *arguments)
        except Exception as error:
            failure = error
        else:
            return CompiledTerms(reported, gradients) if math.isfinite(total.item()) else instead()
        instead()
        raise ValueError(
            f"policy {type_name(self._evaluator.model)} and objective {type_name(self._objective)} cannot be compiled "
            f"into one function, as config.compile_updates asks for: {_reason(failure)}; leave compile_updates out"
        ) from failure


def _differentiated(
    evaluator: Evaluator,
    objective: Any,
    part: ActionBatch,
    rows: Segments,
    decisions: Decisions,
    weight: Tensor,
    tensors: list[Tensor],
) -> tuple[Sequence[Tensor | None], ReportedSums, Tensor]:
    """The gradients, what is reported, and a sum that is finite where all that was evaluated is."""
    evaluation = evaluator.evaluation_of(part, rows, str, requires_gradient=True)
    terms = check_terms(objective(evaluation, decisions), decisions.samples, str, requires_gradient=True)
    loss = terms.loss
    gradients = torch.autograd.grad(loss, tensors, weight.to(loss.dtype), allow_unused=True)
    evaluated = (evaluation.log_probs, evaluation.entropy, evaluation.values, loss)
    total = torch.stack([column.detach().sum().double() for column in evaluated if column is not None]).sum()
    return gradients, weighted_sums(terms, weight), total


def _check(evaluator: Evaluator, objective: Any) -> None:
    import torch._dynamo.config as dynamo

    asked = inspect.signature(torch.compile).parameters.keys()
    if not hasattr(dynamo, "trace_autograd_ops") or not {"isolate_recompiles", "recompile_limit"} <= asked:
        raise ValueError(
            f"compile_updates needs PyTorch 2.13 or newer, and this is {torch.__version__}: install it, or leave "
            f"compile_updates out"
        )
    if needs_of(objective).all_samples and evaluator.has_others:
        raise ValueError(
            f"objective {type_name(objective)} looks at the samples of all processes, and cannot be compiled into one "
            f"function with the policy: leave compile_updates out, or choose another objective"
        )
    if evaluator.computes_together:
        raise ValueError(
            f"policy {type_name(evaluator.model)} computes together with other processes, and cannot be compiled into "
            f"one function with the objective: leave compile_updates out"
        )


def _reason(error: Exception) -> str:
    """Why something was not compiled."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    if isinstance(error, FailOnRecompileLimitHit):
        return (
            f"it would be compiled for the {MOST_VERSIONS + 1}th time, since attributes that are no tensors and no "
            f"numbers, or the lengths of lists, change from step to step"
        )
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.endswith(":")]  # those only tell who raised the next
    return (
        f"it takes a C++ compiler, and code that computes on tensors alone, without sizes or branches that depend on "
        f"their values, as memories and language models have (torch.compile says: {(said or lines or ['nothing'])[0]})"
    )
