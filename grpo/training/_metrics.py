"""Metrics of a step: they stay tensors until the step ends, and are averaged with the weights of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.data._protocols import missing_methods, type_name
from grpo.data.decisions import Decisions
from grpo.data.segments import Segments
from grpo.models.policy import ReportsMetrics
from grpo.objectives._checks import RESERVED_METRICS
from grpo.training._minibatches import WeightedRows


def value_metrics(decisions: Decisions) -> dict[str, float]:
    """How well the critic foresaw the returns: ``explained_variance``, 1 - Var(R - V) / Var(R); nothing without one.

    It is 0 where the returns differ by no more than rounding.
    """
    if decisions.returns is None or decisions.old_values is None:
        return {}
    returns, values = decisions.returns, decisions.old_values
    rounding = 8 * torch.finfo(returns.dtype).eps * torch.maximum(returns.abs().max(), values.abs().max())
    spread, unexplained = returns.var(correction=0), (returns - values).var(correction=0)
    return {"explained_variance": torch.where(spread > rounding.square(), 1 - unexplained / spread, 0.0).item()}


class StepMetrics:
    """What a step tells: what is noted of it as a whole, and averages of what an objective reports.

    The latter are averaged over an optimiser step by weight, then over optimiser steps; until :meth:`result` reads them
    at once they stay tensors, copied, since what a policy returned may be the memory that it goes on computing in.
    """

    def __init__(self) -> None:
        self._noted: dict[str, float] = {}
        self._names: tuple[str, ...] | None = None
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._made: list[tuple[Tensor, Tensor, Tensor]] = []
        self._step_sizes: list[int] = []
        self._grad_norms: list[float] = []
        self._skipped = 0

    def note(self, metrics: Mapping[str, float]) -> None:
        """Take the trainer's own metrics in."""
        self._noted.update(metrics)

    def note_reports(self, *models: Any) -> None:
        """Take in what the models report of themselves, each asked once."""
        for model in {id(model): model for model in models}.values():
            if not missing_methods(model, ReportsMetrics):
                self.note_reported(f"{type_name(model)}.get_metrics", model.get_metrics())

    def note_reported(self, source: str, reported: Any) -> None:
        """Take in what the user's code reports: floats by name, none of the trainer's names nor one that is taken."""
        if not isinstance(reported, Mapping) or not all(isinstance(value, float) for value in reported.values()):
            raise TypeError(f"{source} returned {reported!r}, expected a mapping from names to floats")
        clashes = sorted(reported.keys() & (RESERVED_METRICS | self._noted.keys()))
        if clashes:
            raise ValueError(f"{source} returned names that are taken, {', '.join(clashes)}: choose others")
        self._noted.update(reported)

    def add_micro_batch(self, micro_batch: WeightedRows, values: Mapping[str, Tensor], loss: Tensor) -> None:
        """Add a part of the optimiser step under way: what is reported of each entry, and its part of the loss."""
        if self._names is None:
            taken = values.keys() & self._noted.keys()
            if taken:
                raise ValueError(
                    f"objective returned metrics {sorted(taken)}, which a model's get_metrics "
                    f"returned as well: choose other names there"
                )
            self._names = tuple(sorted(values))
        if values.keys() != set(self._names):
            raise ValueError(
                f"objective returned metrics {sorted(values)}, but {list(self._names)} before: return the same "
                f"ones each time"
            )
        weight = micro_batch.weight
        table = (
            torch.stack([values[name].detach().to(weight.dtype) for name in self._names]) if values else weight[None]
        )
        self._pending.append((weight, table, loss))

    def average_of_micro_batches(self, name: str) -> float:
        """Average over the optimiser step under way of what is reported as ``name``."""
        if self._names is None or name not in self._names:
            raise ValueError(f"target_kl needs a metric {name!r}, but the objective has {sorted(self._names or ())}")
        weight = torch.cat([weight for weight, _, _ in self._pending])
        values = torch.cat([table[self._names.index(name)] for _, table, _ in self._pending])
        average: float = (torch.dot(weight, values) / weight.sum()).item()
        return average

    def end_update(self, grad_norm: float | None) -> None:
        """The optimiser step was made, or would have been if there were parameters."""
        self._step_sizes.append(sum(len(weight) for weight, _, _ in self._pending))
        self._made += self._pending
        self._pending = []
        if grad_norm is not None:
            self._grad_norms.append(grad_norm)

    def skip(self) -> None:
        """An optimiser step, or all of them, was left out."""
        self._pending = []
        self._skipped += 1

    def result(self) -> dict[str, float]:
        """All of them as floats, with ``grad_norm`` and how many updates were made and left out."""
        metrics = self._noted | self.averages()
        if self._grad_norms:
            metrics["grad_norm"] = sum(self._grad_norms) / len(self._grad_norms)
        return metrics | {"num_updates": float(len(self._step_sizes)), "skipped_updates": float(self._skipped)}

    def averages(self) -> dict[str, float]:
        """The loss, and what was reported of each entry; nothing where no step was made."""
        num_steps = len(self._step_sizes)
        if num_steps == 0:
            return {}
        names = self._names or ()
        loss = torch.stack([loss for _, _, loss in self._made]).sum() / num_steps
        weight = _joined([weight for weight, _, _ in self._made], 0)
        # Not a sum of weights, so that the mean of equal values is that value.
        total = torch.dot(weight, torch.ones_like(weight))
        if num_steps > 1:  # each optimiser step counts the same, whatever its weights add up to
            steps = Segments.of_lengths(self._step_sizes, weight.device)
            weight, total = weight / steps.expand(steps.sum(weight)), total.new_full((), num_steps)
        table = _joined([table for _, table, _ in self._made], 1)
        sums = torch.stack([loss, total, *(torch.dot(weight, column) for column in table[: len(names)])]).tolist()
        return {"loss": sums[0]} | {name: own / sums[1] for name, own in zip(names, sums[2:], strict=True)}


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
