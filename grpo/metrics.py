"""Metrics of a step: they stay tensors until the step ends, and are averaged with the weights of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor

from grpo.decisions import Decisions
from grpo.experience import Experience, GroupedRewards
from grpo.minibatches import WeightedRows
from grpo.policy_base import ReportsMetrics
from grpo.protocols import missing_methods, type_name
from grpo.segments import Segments
from grpo.validation import RESERVED_METRICS


def rollout_metrics(experience: Experience) -> dict[str, float]:
    """What was collected: what the rewards were like, how much was cut short, what the collector tells besides."""
    metrics = reward_metrics(experience.sample_rewards)
    if experience.truncated is not None:
        metrics["frac_truncated"] = experience.truncated.float().mean().item()
    return {**metrics, **experience.metrics}


def reward_metrics(rewards: GroupedRewards) -> dict[str, float]:
    """What the rewards were like: ``reward``, ``reward_std`` and ``frac_reward_zero_std``."""
    scalars = torch.stack((rewards.values.mean(), rewards.std.mean(), rewards.std.count_nonzero()))
    reward, reward_std, groups_with_spread = scalars.tolist()
    return {
        "reward": reward,
        "reward_std": reward_std,
        "frac_reward_zero_std": 1 - groups_with_spread / len(rewards.groups),
    }


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


def model_metrics(*models: Any, taken: Set[str] = frozenset()) -> dict[str, float]:
    """What the models report of themselves, each asked once; none may use the trainer's names or those ``taken``."""
    metrics: dict[str, float] = {}
    for model in {id(model): model for model in models}.values():
        if not missing_methods(model, ReportsMetrics):
            reported = model.get_metrics()
            if not isinstance(reported, Mapping) or not all(isinstance(value, float) for value in reported.values()):
                raise TypeError(
                    f"{type_name(model)}.get_metrics returned {reported!r}, expected a mapping from names to floats"
                )
            clashes = sorted(reported.keys() & (RESERVED_METRICS | metrics.keys() | taken))
            if clashes:
                raise ValueError(
                    f"{type_name(model)}.get_metrics returned names that are taken, {', '.join(clashes)}: choose others"
                )
            metrics |= reported
    return metrics


class UpdateMetrics:
    """Averages of what is reported of each decision: over an optimiser step by weight, then over optimiser steps.

    Everything stays as it comes until :meth:`result` averages and reads it at once.

    Args:
        taken: names that the objective's metrics must not have.
    """

    def __init__(self, taken: Set[str]) -> None:
        self._taken = taken
        self._names: frozenset[str] | None = None
        self._pending: list[tuple[WeightedRows, dict[str, Tensor], Tensor]] = []
        self._made: list[tuple[WeightedRows, dict[str, Tensor], Tensor]] = []
        self._step_sizes: list[int] = []
        self._grad_norms: list[float] = []
        self._skipped = 0

    def add_micro_batch(self, micro_batch: WeightedRows, values: dict[str, Tensor], loss: Tensor) -> None:
        """Add a part of the optimiser step under way: what is reported of each decision, and its part of the loss."""
        if self._names is None:
            self._names = frozenset(values)
            if self._names & self._taken:
                raise ValueError(
                    f"objective returned metrics {sorted(self._names & self._taken)}, which a model's get_metrics "
                    f"returned as well: choose other names there"
                )
        if values.keys() != self._names:
            raise ValueError(
                f"objective returned metrics {sorted(values)}, but {sorted(self._names)} before: return the same "
                f"ones each time"
            )
        self._pending.append((micro_batch, values, loss))

    def average_of_micro_batches(self, name: str) -> float:
        """Average over the optimiser step under way of what is reported as ``name``."""
        if self._names is None or name not in self._names:
            raise ValueError(f"target_kl needs a metric {name!r}, but the objective has {sorted(self._names or ())}")
        weight = torch.cat([micro_batch.weight for micro_batch, _, _ in self._pending])
        values = torch.cat([values[name] for _, values, _ in self._pending])
        average: float = (torch.dot(weight, values.to(weight.dtype)) / weight.sum()).item()
        return average

    def end_step(self, grad_norm: float | None) -> None:
        """The optimiser step was made, or would have been if there were parameters."""
        self._step_sizes.append(sum(len(micro_batch.weight) for micro_batch, _, _ in self._pending))
        self._made += self._pending
        self._pending = []
        if grad_norm is not None:
            self._grad_norms.append(grad_norm)

    def skip_step(self) -> None:
        """The optimiser step was left out."""
        self._pending = []
        self._skipped += 1

    def result(self) -> dict[str, float]:
        """All of them as floats, with ``grad_norm`` and how many updates were made and left out."""
        metrics = self.averages()
        if self._grad_norms:
            metrics["grad_norm"] = sum(self._grad_norms) / len(self._grad_norms)
        return metrics | {"num_updates": float(len(self._step_sizes)), "skipped_updates": float(self._skipped)}

    def averages(self) -> dict[str, float]:
        """The loss, and what was reported of each decision; nothing where no step was made."""
        metrics: dict[str, float] = {}
        num_steps = len(self._step_sizes)
        if num_steps > 0:
            names = sorted(self._names or ())
            loss = torch.stack([loss for _, _, loss in self._made]).sum() / num_steps
            weight = _joined([micro_batch.weight for micro_batch, _, _ in self._made])
            total = torch.dot(
                weight, torch.ones_like(weight)
            )  # not a sum, so that the mean of equal values is that value
            if num_steps > 1:  # each optimiser step counts the same, whatever its weights add up to
                steps = Segments.of_lengths(self._step_sizes, weight.device)
                weight, total = weight / steps.expand(steps.sum(weight)), total.new_tensor(num_steps)
            columns = [_joined([values[name] for _, values, _ in self._made]).to(weight.dtype) for name in names]
            sums = torch.stack([loss, total, *(torch.dot(weight, column) for column in columns)]).tolist()
            metrics = {"loss": sums[0]} | {name: own / sums[1] for name, own in zip(names, sums[2:], strict=True)}
        return metrics


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
