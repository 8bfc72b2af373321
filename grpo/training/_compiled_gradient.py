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
from torch.nn.modules.module import _has_any_global_hook

from grpo.data._protocols import type_name
from grpo.data.action_batches import ActionBatch
from grpo.data.adapts import adapts
from grpo.data.decisions import Decisions, Terms
from grpo.data.errors import NonFiniteError
from grpo.data.needs import needs_of
from grpo.data.segments import Segments
from grpo.models._evaluator import Evaluator
from grpo.objectives._checks import check_terms
from grpo.training._gradient_sum import GradientSum
from grpo.training._metrics import ReportedSums, weighted_sums
from grpo.training._minibatches import MicroBatch

MOST_VERSIONS = 16
OPTIONS = {
    "fallback_random": True,  # dropout draws as it does otherwise
    "compile_threads": 1,  # no thread stays behind
}


@dataclass(frozen=True, slots=True)
class CompiledTerms:
    """What is kept of the terms of some rows once they are differentiated.

    Attributes:
        reported: of the rows.
        gradients: each tensor that the loss depends on, with its gradient.
    """

    reported: ReportedSums
    gradients: Sequence[tuple[Tensor, Tensor]]

    def add_gradients(self) -> None:
        """Add the gradients to those that the tensors have."""
        for tensor, gradient in self.gradients:
            if tensor.grad is not None:
                tensor.grad.add_(gradient)
            elif gradient.stride() == tensor.stride():
                tensor.grad = gradient
            else:
                tensor.grad = torch.empty_like(tensor).copy_(gradient)


class CompiledGradient:
    """Evaluates rows, and differentiates their weighted loss, in one compiled function.

    Sizes are arguments of it, and so is the count of the steps, which schedules read: nothing is compiled anew when
    they change, once they are above 1. Any other number is a part of what is compiled, and is compiled anew when it
    changes.

    Args:
        evaluator: of the policy.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        compiled: Any = torch.compile
        on_cpu = all(tensor.device.type == "cpu" for tensor in evaluator.model.get_parameters().values())
        self._function = compiled(
            _differentiated,
            fullgraph=True,
            dynamic=True,
            options=OPTIONS | {"cpp_wrapper": on_cpu},  # elsewhere it takes more than a C++ compiler
            recompile_limit=MOST_VERSIONS,
            isolate_recompiles=True,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledGradient, (self._evaluator,)

    @contextmanager
    def for_a_step(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """While this is open what is not compiled yet can be; to open it for each call takes too long.

        Args:
            tensors: leaves.

        Raises:
            ValueError: if one has a hook, which would not be called, or PyTorch looks for anomalies.
        """
        import torch._dynamo.config as dynamo

        _require_no_hooks(tensors)
        if torch.is_anomaly_enabled():
            raise ValueError(
                "torch.autograd.set_detect_anomaly is on, which cannot look into compiled updates: switch it off, or "
                "leave compile_updates out"
            )
        with dynamo.patch(
            trace_autograd_ops=True,
            accumulated_recompile_limit=sys.maxsize,
            specialize_float=True,  # operations that take no symbol for a number keep the first one for ever
            skip_nnmodule_hook_guards=False,
        ):
            yield

    def __call__(
        self,
        objective: Any,
        batch: ActionBatch,
        micro_batch: MicroBatch,
        tensors: Sequence[Tensor],
        instead: Callable[[], Terms],
    ) -> CompiledTerms:
        """Evaluate some rows, and differentiate their loss by ``tensors``.

        Args:
            objective: what is minimised; another one is compiled anew.
            batch: all rows.
            micro_batch: those asked for.
            tensors: leaves.
            instead: does the same without compilation. It is asked where something is wrong, since it tells what.

        Raises:
            NonFiniteError: if what was computed is not finite.
            ValueError: if it cannot be compiled.
        """
        part, rows = self._evaluator.selected(batch, micro_batch.rows)
        trained = [tensor for tensor in tensors if tensor.requires_grad]
        arguments = part, rows, micro_batch.decisions, micro_batch.weight, trained
        try:
            vectors, reported, total = self._function(self._evaluator, objective, *arguments)
        except Exception as error:
            failure = error
        else:
            if not math.isfinite(total.item()):
                instead()
                raise NonFiniteError(
                    f"{self._evaluator.source} or the objective computed what is not finite in a compiled update, and "
                    f"finite numbers when it was asked again without: leave compile_updates out to find out where"
                )
            return CompiledTerms(reported, _cut(vectors, trained))
        instead()
        raise ValueError(
            f"policy {type_name(self._evaluator.model)} and objective {type_name(objective)} cannot be compiled "
            f"into one function, as config.compile_updates asks for: {_reason(failure)}; leave compile_updates out"
        ) from failure


def compiled_gradient(evaluator: Evaluator, objective: Any) -> CompiledGradient:
    """That of a policy and what is minimised.

    Raises:
        ValueError: if this PyTorch cannot do it, or it makes no sense for them.
    """
    _check(evaluator, objective)
    return CompiledGradient(evaluator)


def _differentiated(
    evaluator: Evaluator,
    objective: Any,
    part: ActionBatch,
    rows: Segments,
    decisions: Decisions,
    weight: Tensor,
    tensors: list[Tensor],
) -> tuple[FlatGradients, ReportedSums, Tensor]:
    """The gradients, what is reported, and a sum that is finite where all that was evaluated is."""
    evaluation = evaluator.evaluation_of(part, rows, str, requires_gradient=True)
    terms = check_terms(objective(evaluation, decisions), decisions.samples, str, requires_gradient=True)
    loss = terms.loss
    gradients = torch.autograd.grad(loss, tensors, weight.to(loss.dtype), allow_unused=True)
    evaluated = (evaluation.log_probs, evaluation.entropy, evaluation.values, loss)
    total = torch.stack([column.detach().double().sum() for column in evaluated if column is not None]).sum()
    return _flat(gradients), weighted_sums(terms, weight), total


FlatGradients = tuple[list[Tensor], list[bool]]
"""A vector of all gradients of one kind, for each kind, and whether the loss depends on each of the tensors."""


def _flat(gradients: Sequence[Tensor | None]) -> FlatGradients:
    """Copies of the gradients: one may be among the numbers that it was computed from, or that of two tensors."""
    told = [gradient for gradient in gradients if gradient is not None]
    kinds = dict.fromkeys((gradient.dtype, gradient.device) for gradient in told)
    vectors = [
        torch.cat([gradient.reshape(-1) for gradient in told if (gradient.dtype, gradient.device) == kind])
        for kind in kinds
    ]
    return vectors, [gradient is not None for gradient in gradients]


def _cut(gradients: FlatGradients, tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The tensors that have a gradient, with it, a part of its vector."""
    vectors, are_told = gradients
    told = [tensor for tensor, is_told in zip(tensors, are_told, strict=True) if is_told]
    pairs: list[tuple[Tensor, Tensor]] = []
    for vector in vectors:
        own = [tensor for tensor in told if tensor.dtype is vector.dtype and tensor.device == vector.device]
        parts = vector.split_with_sizes([tensor.numel() for tensor in own])
        pairs += [(tensor, part.view_as(tensor)) for tensor, part in zip(own, parts, strict=True)]
    return pairs


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
    if adapts(objective):
        raise ValueError(
            f"objective {type_name(objective)} adapts from step to step, and would be compiled anew each time: leave "
            f"compile_updates out, or choose another objective"
        )
    if evaluator.computes_together:
        raise ValueError(
            f"policy {type_name(evaluator.model)} computes together with other processes, and cannot be compiled into "
            f"one function with the objective: leave compile_updates out"
        )


def _require_no_hooks(tensors: Sequence[Tensor]) -> None:
    if _has_any_global_hook():
        raise ValueError(
            "a hook of all modules is registered, which compiled updates would not call: remove it, or leave "
            "compile_updates out"
        )
    for tensor in tensors:
        hooks = (getattr(tensor, "_post_accumulate_grad_hooks", None) or {}).values()
        if tensor._backward_hooks or not all(map(GradientSum.is_own, hooks)):
            raise ValueError(
                f"a parameter of shape {list(tensor.shape)} has a hook, which compiled updates would not call: remove "
                f"it, or leave compile_updates out"
            )


def _reason(error: Exception) -> str:
    """Why something was not compiled."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    if isinstance(error, FailOnRecompileLimitHit):
        return (
            f"it would be compiled for the {MOST_VERSIONS + 1}th time, since attributes that are no tensors, "
            f"such as numbers, or the lengths of lists, change from step to step"
        )
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.endswith(":")]  # those only tell who raised the next
    return (
        f"it takes a C++ compiler, and code that computes on tensors alone, without sizes or branches that depend on "
        f"their values, as memories and language models have (torch.compile says: {(said or lines or ['nothing'])[0]})"
    )
