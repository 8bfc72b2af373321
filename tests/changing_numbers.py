"""An objective with a number that changes from step to step, used in every way that operations take one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from models import FunctionRewards, SequentialTablePolicy
from torch import Tensor

from grpo import Decisions, Evaluation, GRPOConfig, GRPOObjective, GRPOTrainer, Terms

Use = Callable[[Tensor, float], Tensor]

USES: dict[str, Use] = {
    "product": lambda values, number: values * number,
    "full_like": lambda values, number: values * torch.full_like(values, number),
    "clamp": lambda values, number: values.clamp(-number, number),
    "where": lambda values, number: torch.where(values > -1, values, number) * values,
    "alpha": lambda values, number: torch.add(values, values, alpha=number),
    "value": lambda values, number: torch.addcmul(values, values, values, value=number),
    "power": lambda values, number: values.abs() ** number,
    "integer": lambda values, number: values * int(10 * number),
}


class Changing:
    """GRPO's objective and something with a number."""

    def __init__(self, use: Use) -> None:
        self.use, self.number, self.inner = use, 0.0, GRPOObjective()

    def __call__(self, evaluation: Evaluation, decisions: Decisions) -> Terms:
        terms = self.inner(evaluation, decisions)
        return Terms(terms.loss + self.use(evaluation.log_probs, self.number), terms.metrics)


def history(use: Use, numbers: tuple[float, ...], *, compile_updates: bool) -> list[dict[str, float]]:
    """The metrics of a training that has another number in each step."""
    torch.manual_seed(0)
    objective = Changing(use)
    config = GRPOConfig(group_size=6, batch_size=8, learning_rate=0.1, compile_updates=compile_updates)
    rewards = FunctionRewards(lambda state, action: float(action == state))
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(config, SequentialTablePolicy(), rewards, objective=objective)
    metrics = []
    for number in numbers:
        objective.number = number
        metrics.append(trainer.step([0, 1, 2, 0, 1]))
    return metrics
