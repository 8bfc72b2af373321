"""Steps of AdamW that a trainer makes by the kernel: those of AdamW to the last bit, and watched as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import FunctionRewards, Quiet
from torch import Tensor

from grpo import GRPOConfig, GRPOTrainer


class TwoTables(Quiet):
    """A categorical distribution whose logits are a sum of two parameters."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.logits = torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_()
        self.bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        self.unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> list[list[int]]:
        return [list(range(num_actions_per_state)) for _ in states]

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        return (self.logits + self.bias).log_softmax(-1)[torch.tensor(states), torch.tensor(actions)]

    def get_parameters(self) -> dict[str, Tensor]:
        return {"logits": self.logits, "bias": self.bias, "unused": self.unused}


def trained(**settings: Any) -> tuple[GRPOTrainer[Any, Any], torch.optim.AdamW]:
    policy = TwoTables()
    groups: list[dict[str, Any]] = [{"params": [policy.logits, policy.unused]}, {"params": [policy.bias], "lr": 0.02}]
    optimizer = torch.optim.AdamW(groups, **{"lr": 0.1, "weight_decay": 0.1, "fused": True, **settings})
    rewards = FunctionRewards(lambda state, action: float(action == state))
    return GRPOTrainer(GRPOConfig(group_size=4), policy, rewards, optimizer=optimizer), optimizer


def values(optimizer: torch.optim.AdamW) -> list[Tensor]:
    states = [entry for state in optimizer.state.values() for entry in state.values()]
    return [tensor.detach().clone() for group in optimizer.param_groups for tensor in group["params"]] + states


@pytest.mark.parametrize(
    "settings", [{}, {"maximize": True}, {"amsgrad": True}, {"fused": False}, {"lr": torch.tensor(0.1)}, {"eps": 1e-3}]
)
def test_steps_are_those_of_the_optimizer(settings: dict[str, Any]) -> None:
    trainer, optimizer = trained(**settings)
    watched, other = trained(**settings)
    calls = []
    other.register_step_post_hook(lambda *arguments: calls.append(arguments))
    for _ in range(4):
        trainer.step([0, 1, 2])
        watched.step([0, 1, 2])
    assert len(calls) == 4
    assert all(torch.equal(own, its) for own, its in zip(values(optimizer), values(other), strict=True))


def count_by_hook(optimizer: torch.optim.AdamW, count: Callable[..., None]) -> None:
    optimizer.register_step_pre_hook(count)


def count_by_replaced_step(optimizer: torch.optim.AdamW, count: Callable[..., None]) -> None:
    step = optimizer.step

    def counted(closure: Any = None) -> Any:
        count()
        return step(closure)

    optimizer.step = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("watch", [count_by_hook, count_by_replaced_step])
def test_whoever_watches_steps_sees_them(watch: Callable[..., None]) -> None:
    trainer, optimizer = trained()
    trainer.step([0, 1, 2])
    calls = []
    watch(optimizer, lambda *arguments: calls.append(arguments))
    trainer.step([0, 1, 2])
    assert len(calls) == 1


def test_a_step_that_the_class_was_given_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = trained()
    trainer.step([0, 1, 2])
    calls = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *arguments: calls.append(arguments))
    trainer.step([0, 1, 2])
    assert len(calls) == 1


def test_a_scheduler_sees_steps() -> None:
    trainer, optimizer = trained()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    trainer.step([0, 1, 2])
    scheduler.step()  # warns where it saw no step
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_a_profile_names_steps() -> None:
    trainer, _ = trained()
    trainer.step([0, 1, 2])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        trainer.step([0, 1, 2])
    assert "Optimizer.step#AdamW.step" in [event.key for event in profile.key_averages()]
