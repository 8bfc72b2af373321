"""An objective that looks at all samples of an optimiser step, given those of other processes as well."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from grpo.data.decisions import Decisions, Terms
from grpo.data.evaluation import Evaluation
from grpo.data.gathered import joined_columns
from grpo.data.segments import Segments
from grpo.distributed.world import World
from grpo.training._minibatches import MicroBatch

EVALUATED = tuple(field.name for field in fields(Evaluation))
KNOWN = tuple(field.name for field in fields(Decisions) if field.name not in ("samples", "step"))

Part = dict[str, Tensor | None]


@dataclass(frozen=True, slots=True)
class TermsOfAll(Terms):
    """Of this process's decisions, with what it goes backward from.

    Attributes:
        total: the weighted loss of all processes' decisions, whose gradient is that of this process's evaluation.
    """

    total: Tensor


def terms_of_all(
    objective: Any, evaluation: Evaluation | None, micro_batch: MicroBatch | None, world: World
) -> TermsOfAll | None:
    """What an objective makes of the decisions of all processes; None where this one has none of them.

    The evaluations of other processes come without gradient: each process differentiates the loss of all by what it has
    evaluated itself, and the sum of their gradients is that of the loss.
    """
    own = None if evaluation is None or micro_batch is None else _part(evaluation, micro_batch)
    told = world.gather(None if own is None else {name: _sendable(column) for name, column in own.items()})
    if own is None or evaluation is None or micro_batch is None:
        return None
    device = evaluation.log_probs.device
    parts = [own if rank == world.rank else part for rank, part in enumerate(told) if part is not None]
    whole = {name: joined_columns([part[name] for part in parts], device) for name in own}
    lengths, weight = whole["lengths"], whole["weight"]
    assert lengths is not None
    assert weight is not None
    known: dict[str, Any] = {name: whole[name] for name in KNOWN}
    decisions = Decisions(**known, samples=Segments.of_lengths(lengths), step=micro_batch.decisions.step)
    evaluated: dict[str, Any] = {name: whole[name] for name in EVALUATED}
    terms = objective(Evaluation(**evaluated), decisions)
    if not isinstance(terms, Terms) or terms.loss.shape != weight.shape:
        raise TypeError(f"objective returned {terms!r:.200}, expected grpo.Terms with a loss of shape [{len(weight)}]")
    first = sum(len(part["weight"]) for part in told[: world.rank] if part is not None)
    mine = slice(first, first + len(micro_batch.weight))
    total = torch.dot(weight.to(terms.loss.dtype), terms.loss)
    return TermsOfAll(terms.loss[mine], {name: metric[mine] for name, metric in terms.metrics.items()}, total)


def _part(evaluation: Evaluation, micro_batch: MicroBatch) -> Part:
    decisions = micro_batch.decisions
    return {
        "weight": micro_batch.weight,
        "lengths": decisions.samples.lengths,
        **{name: getattr(evaluation, name) for name in EVALUATED},
        **{name: getattr(decisions, name) for name in KNOWN},
    }


def _sendable(column: Tensor | None) -> Tensor | None:
    return None if column is None else column.detach().cpu()
