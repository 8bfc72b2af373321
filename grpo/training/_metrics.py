"""Metrics of a step: tensors until it ends, averaged with the weights of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.data._protocols import type_name
from grpo.data.decisions import Decisions, Terms
from grpo.data.shared_segments import SharedSegments
from grpo.distributed.world import ALONE, World
from grpo.models.policy import ReportsMetrics
from grpo.objectives._checks import RESERVED_METRICS


def value_metrics(decisions: Decisions, world: World = ALONE) -> dict[str, float]:
    """How well the critic foresaw the returns: ``explained_variance``, 1 - Var(R - V) / Var(R); nothing without one.

    It is 0 where the returns differ by no more than rounding.
    """
    if decisions.returns is None or decisions.old_values is None:
        return {}
    returns, values = decisions.returns, decisions.old_values
    everything = SharedSegments.whole(len(returns), returns.device, world)
    rounding = 8 * torch.finfo(returns.dtype).eps * everything.maximum(torch.maximum(returns.abs(), values.abs()))
    wide, error = returns.double(), (returns - values).double()
    totals = everything.sums(wide, error, torch.ones_like(wide))
    means = [everything.expand(total / totals[2]) for total in totals[:2]]
    spread, unexplained = everything.sums((wide - means[0]).square(), (error - means[1]).square())
    is_spread = spread / totals[2] > rounding.double().square()
    return {"explained_variance": torch.where(is_spread, 1 - unexplained / spread, 0.0).item()}


ReportedSums = tuple[tuple[str, ...], Tensor]
"""Names in alphabetical order, and [2 + M]: the loss, 1, and what is reported by each name, weighted and summed."""


@torch.no_grad()
def weighted_sums(terms: Terms, weight: Tensor) -> ReportedSums:
    """What is reported of entries with these weights."""
    names = tuple(sorted(terms.metrics))
    entries = (terms.loss, torch.ones_like(weight), *(terms.metrics[name] for name in names))
    return names, (torch.stack(entries).to(weight.dtype) * weight).sum(1)


class StepMetrics:
    """What a step tells: what is noted of it as a whole, and averages of what an objective reports.

    The latter are averaged over an optimiser step by weight, then over optimiser steps, each of which counts the same.
    Until :meth:`result` reads them at once the sums stay tensors.

    Args:
        world: the processes whose samples are averaged over.
    """

    def __init__(self, world: World = ALONE) -> None:
        self._world = world
        self._has_agreed = world.is_alone
        self._noted: dict[str, float] = {}
        self._names: tuple[str, ...] | None = None
        self._pending: list[Tensor] = []
        self._made: list[Tensor] = []
        self._grad_norms: list[float] = []
        self._skipped = 0
        self._averages: dict[str, float] | None = None

    def note(self, metrics: Mapping[str, float]) -> None:
        """Take the trainer's own metrics in."""
        self._noted.update(metrics)

    def note_reports(self, models: Iterable[ReportsMetrics]) -> None:
        """Take in what models report of themselves."""
        for model in models:
            self.note_reported(f"{type_name(model)}.get_metrics", model.get_metrics())

    def note_reported(self, source: str, reported: Any) -> None:
        """Take in what the user's code reports: floats by name, none of the trainer's names nor one that is taken."""
        if not isinstance(reported, Mapping) or not all(
            isinstance(name, str) and isinstance(value, float) for name, value in reported.items()
        ):
            raise TypeError(f"{source} returned {reported!r}, expected a mapping from names to floats")
        clashes = sorted(reported.keys() & (RESERVED_METRICS | self._noted.keys()))
        if clashes:
            raise ValueError(f"{source} returned names that are taken, {', '.join(clashes)}: choose others")
        self._noted.update(_mean_over_processes(reported, self._world))

    def add(self, reported: ReportedSums) -> None:
        """Add what is reported of a part of the optimiser step under way."""
        names, sums = reported
        if self._names is None:
            taken = self._noted.keys() & set(names)
            if taken:
                raise ValueError(
                    f"objective returned metrics {sorted(taken)}, which a model's get_metrics "
                    f"returned as well: choose other names there"
                )
            self._names = names
        if names != self._names:
            raise ValueError(
                f"objective returned metrics {list(names)}, but {list(self._names)} before: return the same "
                f"ones each time"
            )
        self._pending.append(sums)

    def sums_of_micro_batches(self) -> Tensor:
        """Of the optimiser step under way, on this process: loss, weight, and what is reported, in one order on all."""
        if not self._has_agreed:
            told = [names for names in self._world.gather(self._names) if names is not None]
            if any(names != told[0] for names in told):
                raise ValueError(f"objective returned metrics {told} on the processes, expected the same on all")
            self._names, self._has_agreed = told[0], True
        return _total(self._pending) if self._pending else torch.zeros(2 + len(self._names or ()))

    def take_sums(self, sums: Tensor) -> None:
        """Go on with those of all processes."""
        self._pending = [sums]

    def average_of_micro_batches(self, name: str) -> float:
        """Average over the optimiser step under way of what is reported as ``name``."""
        if self._names is None or name not in self._names:
            raise ValueError(f"target_kl needs a metric {name!r}, but the objective has {sorted(self._names or ())}")
        sums = _total(self._pending)
        average: float = (sums[2 + self._names.index(name)] / sums[1]).item()
        return average

    @property
    def has_updated(self) -> bool:
        """Whether an optimiser step was made."""
        return bool(self._made)

    def end_update(self, grad_norm: float | None) -> None:
        """The optimiser step was made, or would have been if there were parameters."""
        self._averages = None
        self._made.append(_total(self._pending))
        self._pending = []
        if grad_norm is not None:
            self._grad_norms.append(grad_norm)

    def skip(self) -> None:
        """An optimiser step, or all of them, was left out."""
        self._pending = []
        self._skipped += 1

    def result(self) -> dict[str, float]:
        """All of them as floats, with ``grad_norm`` and how many updates were made and left out."""
        if self._averages is None:
            self._averages = self.averages()
        metrics = self._noted | self._averages
        if self._grad_norms:
            metrics["grad_norm"] = sum(self._grad_norms) / len(self._grad_norms)
        return metrics | {"num_updates": float(len(self._made)), "skipped_updates": float(self._skipped)}

    def averages(self) -> dict[str, float]:
        """The loss, and what was reported of each entry; nothing where no update was made."""
        if not self._made:
            return {}
        sums = torch.stack(self._made) if len(self._made) > 1 else self._made[0].unsqueeze(0)
        updates = sums.tolist()
        names = self._names or ()
        averages = {"loss": sum(update[0] for update in updates) / len(updates)}
        for column, name in enumerate(names, start=2):
            averages[name] = sum(update[column] / update[1] for update in updates) / len(updates)
            if name == "approx_kl" and len(updates) > 1:
                averages["first_approx_kl"] = updates[0][column] / updates[0][1]
        return averages


def _mean_over_processes(reported: Mapping[str, float], world: World) -> dict[str, float]:
    """What models report, averaged over the processes where they do; counts, ``num_...``, are added up."""
    if world.is_alone:
        return dict(reported)
    told = world.gather(dict(reported))
    values = {name: [own[name] for own in told if name in own] for name in sorted({n for own in told for n in own})}
    totals = {name: math.fsum(own) for name, own in values.items() if name.startswith("num_")}
    return {name: own[0] if len(set(own)) == 1 else sum(own) / len(own) for name, own in values.items()} | totals


def _total(sums: list[Tensor]) -> Tensor:
    """Of the parts of an optimiser step together."""
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
