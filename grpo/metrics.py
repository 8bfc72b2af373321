"""Metrics of a step: they stay tensors until the step ends, and are averaged with the weights of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.experience import Experience


def reward_metrics(experience: Experience) -> dict[str, Tensor]:
    """Scalars that tell of the rewards: ``reward``, ``reward_std`` and ``frac_reward_zero_std``."""
    rewards = experience.sample_rewards
    spread = torch.stack((rewards.std, (rewards.std == 0).to(rewards.std.dtype))).mean(1)
    return {"reward": rewards.values.mean(), "reward_std": spread[0], "frac_reward_zero_std": spread[1]}


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

    def add_micro_batch(self, losses: Tensor, values: dict[str, Tensor], weight: Tensor) -> None:
        """Add a part of the optimiser step under way.

        Args:
            losses: of each decision, [D].
            values: what is reported of each decision, [D] each.
            weight: of each decision in the loss, [D].
        """
        self._names = tuple(values)
        rows = torch.stack([losses.detach(), torch.ones_like(weight), *values.values()])
        self._micro_batches.append(rows.to(weight.dtype) @ weight)

    def end_step(self, grad_norm: float | None) -> None:
        """The optimiser step was made, or would have been if there were parameters."""
        self._steps.append(sum(self._micro_batches[1:], self._micro_batches[0]))
        self._micro_batches = []
        if grad_norm is not None:
            self._grad_norms.append(grad_norm)

    def skip_step(self) -> None:
        """The optimiser step was left out."""
        self._micro_batches = []
        self._skipped += 1

    def result(self, once: dict[str, Tensor]) -> dict[str, float]:
        """All metrics as floats, those of ``once`` first."""
        metrics = dict(zip(once, torch.stack(list(once.values())).tolist(), strict=True))
        if self._steps:
            steps = [
                (loss, *(total / weight for total in sums)) for loss, weight, *sums in torch.stack(self._steps).tolist()
            ]
            averages = (sum(values) / len(values) for values in zip(*steps, strict=True))
            metrics |= dict(zip(("loss", *self._names), averages, strict=True))
        if self._grad_norms:
            metrics["grad_norm"] = sum(self._grad_norms) / len(self._grad_norms)
        return metrics | {"num_updates": float(len(self._steps)), "skipped_updates": float(self._skipped)}
