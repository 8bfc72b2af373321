"""Metrics of a step: they stay tensors until the step ends, and are averaged with the weights of the loss."""

from __future__ import annotations

from functools import reduce
from operator import add

import torch
from torch import Tensor

from grpo.experience import Experience


def reward_metrics(experience: Experience) -> dict[str, float]:
    """What the rewards were like: ``reward``, ``reward_std`` and ``frac_reward_zero_std``."""
    rewards = experience.sample_rewards
    scalars = torch.stack((rewards.values.mean(), rewards.std.mean(), rewards.std.count_nonzero()))
    reward, reward_std, groups_with_spread = scalars.tolist()
    return {
        "reward": reward,
        "reward_std": reward_std,
        "frac_reward_zero_std": 1 - groups_with_spread / len(rewards.groups),
    }


class UpdateMetrics:
    """Averages of what is reported of each decision: over an optimiser step by weight, then over optimiser steps.

    Everything stays a tensor until :meth:`result` reads it from the device at once.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._micro_batches: list[Tensor] = []
        self._steps: list[Tensor] = []
        self._grad_norms: list[float] = []
        self._skipped = 0

    def add_micro_batch(self, loss: Tensor, values: dict[str, Tensor], weight: Tensor) -> None:
        """Add a part of the optimiser step under way.

        Args:
            loss: its part of the loss, a scalar.
            values: what is reported of each decision, [D] each.
            weight: of each decision in the loss, [D].
        """
        self._names = self._names or tuple(values)
        if values.keys() != set(self._names):
            raise ValueError(
                f"objective returned metrics {sorted(values)}, but {sorted(self._names)} before: return the same "
                f"ones each time"
            )
        sums = (torch.dot(weight, values[name].to(weight.dtype)) for name in self._names)
        self._micro_batches.append(torch.stack((loss.detach(), weight.sum(), *sums)))

    def end_step(self, grad_norm: float | None) -> None:
        """The optimiser step was made, or would have been if there were parameters."""
        self._steps.append(reduce(add, self._micro_batches))
        self._micro_batches = []
        if grad_norm is not None:
            self._grad_norms.append(grad_norm)

    def skip_step(self) -> None:
        """The optimiser step was left out."""
        self._micro_batches = []
        self._skipped += 1

    def result(self) -> dict[str, float]:
        """All of them as floats."""
        metrics: dict[str, float] = {}
        if self._steps:
            steps = [
                (loss, *(total / weight for total in sums)) for loss, weight, *sums in torch.stack(self._steps).tolist()
            ]
            averages = (sum(values) / len(values) for values in zip(*steps, strict=True))
            metrics |= dict(zip(("loss", *self._names), averages, strict=True))
        if self._grad_norms:
            metrics["grad_norm"] = sum(self._grad_norms) / len(self._grad_norms)
        return metrics | {"num_updates": float(len(self._steps)), "skipped_updates": float(self._skipped)}
