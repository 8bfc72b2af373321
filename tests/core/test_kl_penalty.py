"""PPO with a penalty: values by hand, the gradient at the old policy, and a coefficient that holds its target."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, StepRewards, TablePolicy, WalkerPolicy

from grpo import (
    AdaptiveKLCoefficient,
    Decisions,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenaltySurrogate,
    PPOConfig,
    PPOObjective,
    PPOTrainer,
    Segments,
    kl_k3,
    kl_penalty_surrogate,
)

log_prob_pairs = st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0), st.floats(-3, 3)), min_size=1, max_size=6)


def grade(state: int, action: int) -> float:
    return float(action == state)


def penalised(coefficient: float | AdaptiveKLCoefficient) -> GRPOObjective:
    return GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=coefficient))


def test_losses_by_hand() -> None:
    log_probs, old_log_probs = torch.tensor([0.5, 2.0, 1.0]).double().log(), torch.zeros(3).double()
    advantages = torch.tensor([1.0, -2.0, 3.0]).double()
    losses = kl_penalty_surrogate(log_probs, old_log_probs, advantages, coefficient=4.0)
    # -ρA + 4 (ρ - 1 - log ρ): -0.5 + 4 (-0.5 + log 2), 4 + 4 (1 - log 2), -3
    expected = [-0.5 + 4 * (math.log(2) - 0.5), 4 + 4 * (1 - math.log(2)), -3.0]
    torch.testing.assert_close(losses, torch.tensor(expected).double())


@given(log_prob_pairs, st.floats(0, 10))
def test_the_gradient_is_that_of_the_formula(rows: list[tuple[float, float, float]], coefficient: float) -> None:
    """d/dlog π of -ρA + β(ρ - 1 - log ρ) is -ρA + β(ρ - 1); of the penalty itself it points back to the old policy."""
    new, old, advantages = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    log_probs = new.clone().requires_grad_()
    losses = kl_penalty_surrogate(log_probs, old, advantages, coefficient=coefficient)
    [gradient] = torch.autograd.grad(losses.sum(), log_probs)
    ratio = (new - old).exp()
    torch.testing.assert_close(gradient, -ratio * advantages + coefficient * (ratio - 1))
    torch.testing.assert_close(losses.detach(), -ratio * advantages + coefficient * kl_k3(old, new))


@given(log_prob_pairs, st.floats(0, 10), st.booleans())
def test_at_the_old_policy_the_gradient_is_that_of_reinforce(
    rows: list[tuple[float, float, float]], coefficient: float, noted: bool
) -> None:
    new, _, advantages = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    log_probs = new.clone().requires_grad_()
    decisions = Decisions(advantages, new.clone() if noted else None, None, Segments(len(rows), 1))
    terms = KLPenaltySurrogate(coefficient=coefficient)(log_probs, decisions)
    [gradient] = torch.autograd.grad(terms.loss.sum(), log_probs)
    assert torch.equal(gradient, -advantages)
    assert not terms.metrics["approx_kl"].any()
    assert torch.equal(terms.metrics["kl_penalty_coefficient"], torch.full_like(advantages, coefficient))


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(1e-3, 1), st.floats(1e-3, 1e3))
def test_the_coefficient_follows_the_divergence(kls: list[float], target: float, initial: float) -> None:
    coefficient = AdaptiveKLCoefficient(target, initial)
    for kl in kls:
        before = coefficient.value
        coefficient.update(kl)
        factor = 2.0 if kl > 1.5 * target else 0.5 if kl < target / 1.5 else 1.0
        assert coefficient.value == min(max(factor * before, 1e-6), 1e6)
    assert coefficient.target == target


@pytest.mark.parametrize(("kl", "bound"), [(0.0, 1e-6), (1.0, 1e6)])
def test_the_coefficient_keeps_within_bounds(kl: float, bound: float) -> None:
    coefficient = AdaptiveKLCoefficient(target=0.01)
    for _ in range(100):
        coefficient.update(kl)
    assert coefficient.value == bound
    coefficient.update(1.0 - kl)
    assert coefficient.value == (2 * bound if kl == 0 else bound / 2)


@pytest.mark.parametrize(
    "bad", [(0.0, 1.0), (-0.1, 1.0), (0.1, 0.0), (0.1, -1.0), (float("nan"), 1.0), (float("inf"), 1.0), (0.1, 1e9)]
)
def test_targets_and_coefficients_must_be_above_zero(bad: tuple[float, float]) -> None:
    with pytest.raises(
        ValueError, match="expected a finite target above 0 and an initial coefficient from 1e-06 to 1e\\+06"
    ):
        AdaptiveKLCoefficient(*bad)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "adaptive"])
def test_wrong_coefficients(bad: Any) -> None:
    with pytest.raises(ValueError, match="coefficient"):
        KLPenaltySurrogate(coefficient=bad)


def train(coefficient: float | AdaptiveKLCoefficient, num_steps: int) -> list[dict[str, float]]:
    """Another action is rewarded in every step, so that there is always something to move for."""
    torch.manual_seed(0)
    policy = TablePolicy()
    preferred = {"action": 0}
    trainer = GRPOTrainer(
        GRPOConfig(group_size=48, num_epochs_per_update=15, max_grad_norm=None),
        policy,
        FunctionRewards(lambda state, action: float(action == preferred["action"])),
        optimizer=torch.optim.SGD([policy.logits], lr=0.5),
        objective=penalised(coefficient),
    )
    metrics = []
    for step in range(num_steps):
        preferred["action"] = step % 4
        metrics.append(trainer.step([0, 1, 2]))
    return metrics


@pytest.mark.parametrize("initial", [0.5, 16.0])
def test_training_holds_the_divergence_at_its_target(initial: float) -> None:
    target, coefficient = 0.02, AdaptiveKLCoefficient(0.02, initial)
    metrics = train(coefficient, 30)
    settled = sum(step["policy_kl"] for step in metrics[-10:]) / 10
    assert target / 2.25 < settled < target * 2.25
    assert metrics[0]["kl_penalty_coefficient"] == pytest.approx(initial)
    assert not initial / 2 <= metrics[-1]["kl_penalty_coefficient"] <= initial * 2
    # one that stays where it started does not get there
    fixed = train(initial, 4)
    assert all("policy_kl" not in step for step in fixed)
    assert not target / 2.25 < sum(step["approx_kl"] for step in fixed) / 4 < target * 2.25


@pytest.mark.parametrize("micro_batch_size", [None, 1, 7])
@pytest.mark.parametrize("epochs", [1, 3])
def test_the_divergence_told_is_that_between_the_policies_before_and_after_a_step(
    micro_batch_size: int | None, epochs: int
) -> None:
    told = []

    class Noting(AdaptiveKLCoefficient):
        def update(self, kl: float, num_samples: int = 1) -> None:
            told.append(kl)
            super().update(kl, num_samples)

    torch.manual_seed(0)
    policy, coefficient = WalkerPolicy(), Noting(target=1e-3)
    trainer = PPOTrainer(
        PPOConfig(num_epochs_per_update=epochs, batch_size=None, micro_batch_size=micro_batch_size, learning_rate=0.1),
        policy,
        StepRewards(),
        objective=PPOObjective(surrogate=KLPenaltySurrogate(coefficient=coefficient)),
    )
    experience = trainer.collector.collect([0, 1, 2])
    batch: Any = experience.batch
    before = policy.evaluate_actions(batch).log_probs.detach()
    metrics = trainer.update(experience)
    after = policy.evaluate_actions(batch).log_probs.detach()
    ratio = (after - before).exp()
    expected = (ratio - 1 - ratio.log()).mean().item()
    assert expected > 1e-3
    assert metrics["policy_kl"] == pytest.approx(expected)
    assert told == [metrics["policy_kl"]]
    assert metrics["kl_penalty_coefficient"] == pytest.approx(1.0)  # that of the step itself
    assert coefficient.value == 2.0


def test_a_fixed_coefficient_needs_no_further_evaluation() -> None:
    for coefficient, evaluations in ((1.0, 1), (AdaptiveKLCoefficient(0.1), 3)):
        policy = TablePolicy()
        calls: list[int] = []
        evaluate = policy.get_log_probabilities
        policy.get_log_probabilities = lambda s, a, e=evaluate, c=calls: (c.append(len(a)), e(s, a))[1]  # type: ignore
        GRPOTrainer(GRPOConfig(), policy, FunctionRewards(grade), objective=penalised(coefficient)).step([0, 1])
        assert len(calls) == evaluations


def test_a_failed_step_tells_the_coefficient_nothing() -> None:
    policy, coefficient = TablePolicy(), AdaptiveKLCoefficient(target=0.01)
    trainer = GRPOTrainer(GRPOConfig(), policy, FunctionRewards(grade), objective=penalised(coefficient))
    trainer.step([0, 1])
    value = coefficient.value
    policy.get_log_probabilities = lambda states, actions: torch.full((len(actions),), torch.nan)  # type: ignore
    with pytest.raises(ValueError, match="with nan"):
        trainer.step([0, 1])
    assert coefficient.value == value
    assert repr(coefficient) == f"AdaptiveKLCoefficient(target=0.01, value={value})"


@pytest.mark.parametrize(
    ("epochs", "non_finite"),
    [(1, "raise"), (2, "raise"), (1, "skip"), (2, "skip")],
)
def test_a_divergence_that_is_not_finite_changes_nothing(epochs: int, non_finite: Any) -> None:
    """The last evaluation of a step, which nothing but the coefficient reads, fails."""

    class Failing(TablePolicy):
        evaluations_left = epochs + 1

        def get_log_probabilities(self, states: Any, actions: Any) -> torch.Tensor:
            self.evaluations_left -= 1
            log_probs = super().get_log_probabilities(states, actions)
            return log_probs if self.evaluations_left >= 0 else log_probs * torch.nan

    policy, coefficient = Failing(), AdaptiveKLCoefficient(target=0.01)
    before = policy.logits.detach().clone()
    config = GRPOConfig(num_epochs_per_update=epochs, non_finite=non_finite)
    trainer = GRPOTrainer(config, policy, FunctionRewards(grade), objective=penalised(coefficient))
    if non_finite == "raise":
        with pytest.raises(ValueError, match="with nan"):
            trainer.step([0, 1])
        assert torch.equal(policy.logits, before)
    else:
        trainer.step([0, 1])
    assert coefficient.value == 1.0
