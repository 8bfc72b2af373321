"""SAPO's surrogate: constants by hand, the gate of its gradient, bad temperatures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, TablePolicy

from grpo import (
    Decisions,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    Segments,
    SoftAdaptiveSurrogate,
    kl_k3,
    soft_adaptive_surrogate,
)


def test_losses_by_hand() -> None:
    ratio = torch.tensor([1.0, 2.0, 0.5, 2.0]).double()
    advantages = torch.tensor([3.0, 1.0, -2.0, 0.0]).double()
    losses = soft_adaptive_surrogate(ratio, advantages, temperature_positive=2.0, temperature_negative=4.0)
    # -σ(0) · 4/2 · 3, -σ(2) · 4/2 · 1, σ(-2) · 4/4 · 2, 0
    sigmoid_of_2 = 1 / (1 + math.exp(-2))
    expected = [-3.0, -2 * sigmoid_of_2, 2 * (1 - sigmoid_of_2), 0.0]
    torch.testing.assert_close(losses, torch.tensor(expected).double())


@given(
    st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.floats(-3, 3)), min_size=1, max_size=6),
    st.floats(0.1, 5),
    st.floats(0.1, 5),
)
def test_the_gradient_is_that_of_a_gate(
    rows: list[tuple[float, float, float]], positive: float, negative: float
) -> None:
    """d/dlog π is -ρA / cosh²(τ(ρ - 1)/2), which is REINFORCE's -A at ρ = 1, and no more than -ρA anywhere."""
    new, old, advantages = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    log_probs = new.clone().requires_grad_()
    surrogate = SoftAdaptiveSurrogate(temperature_positive=positive, temperature_negative=negative)
    terms = surrogate(log_probs, Decisions(advantages, old, None, Segments(len(rows), 1)))
    [gradient] = torch.autograd.grad(terms.loss.sum(), log_probs)
    ratio = (new - old).exp()
    temperature = torch.where(advantages > 0, positive, negative).double()
    torch.testing.assert_close(gradient, -ratio * advantages / torch.cosh(temperature * (ratio - 1) / 2).square())
    torch.testing.assert_close(terms.metrics["approx_kl"], kl_k3(old, new))
    assert terms.metrics.keys() == {"approx_kl"}


@pytest.mark.parametrize("noted", [False, True])
@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-3, 3)), min_size=1, max_size=6))
def test_at_the_old_policy_the_gradient_is_that_of_reinforce(noted: bool, rows: list[tuple[float, float]]) -> None:
    new, advantages = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    log_probs = new.clone().requires_grad_()
    decisions = Decisions(advantages, new.clone() if noted else None, None, Segments(len(rows), 1))
    terms = SoftAdaptiveSurrogate()(log_probs, decisions)
    [gradient] = torch.autograd.grad(terms.loss.sum(), log_probs)
    torch.testing.assert_close(gradient, -advantages)
    assert not terms.metrics["approx_kl"].any()


def test_far_from_the_old_policy_everything_stays_finite() -> None:
    log_probs = torch.tensor([0.0, -200.0], requires_grad=True)
    decisions = Decisions(torch.tensor([1.0, -1.0]), torch.tensor([-200.0, 0.0]), None, Segments(2, 1))
    terms = SoftAdaptiveSurrogate()(log_probs, decisions)
    terms.loss.sum().backward()
    assert terms.loss.isfinite().all()
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()


@pytest.mark.parametrize("name", ["temperature_positive", "temperature_negative"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), "hot"])
def test_wrong_temperatures(name: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=name):
        SoftAdaptiveSurrogate(**{name: bad})


def grade(state: int, action: int) -> float:
    return float(action == state)


def test_a_surrogate_is_no_objective() -> None:
    with pytest.raises(TypeError, match=r"objective is a surrogate: pass objective=GRPOObjective\(surrogate="):
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), objective=SoftAdaptiveSurrogate())  # type: ignore[arg-type]


def test_it_learns() -> None:
    torch.manual_seed(0)
    config = GRPOConfig(group_size=16, num_epochs_per_update=3, learning_rate=0.05)
    objective = GRPOObjective(surrogate=SoftAdaptiveSurrogate())
    trainer = GRPOTrainer(config, TablePolicy(), FunctionRewards(grade), objective=objective)
    for _ in range(80):
        metrics = trainer.step([0, 1, 2])
    assert metrics["reward"] > 0.9
