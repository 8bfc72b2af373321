"""Numbers that change from step to step: what a schedule says, who follows it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import (
    ClippedSurrogate,
    Decisions,
    Evaluation,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    LinearSchedule,
    PPOConfig,
    PPOTrainer,
    SampleClippedSurrogate,
    ScoreFunctionSurrogate,
    Segments,
    TrainerConfig,
)


def linear(start: float, end: float, num_steps: int = 4) -> LinearSchedule:
    return LinearSchedule(start=start, end=end, num_steps=num_steps)


def grade(state: int, action: int) -> float:
    return float(action == state)


@given(st.floats(-10, 10), st.floats(-10, 10), st.integers(1, 50), st.integers(0, 100))
def test_a_schedule_stays_between_its_ends_and_arrives(start: float, end: float, num_steps: int, step: int) -> None:
    schedule = linear(start, end, num_steps)
    assert schedule.at(0) == start
    assert schedule.at(num_steps + step) == pytest.approx(end, abs=1e-12)
    assert min(start, end) - 1e-12 <= schedule.at(step) <= max(start, end) + 1e-12
    if step < num_steps:
        assert schedule.at(step + 1) - schedule.at(step) == pytest.approx((end - start) / num_steps, abs=1e-12)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 50), st.integers(0, 100))
def test_a_schedule_within_bounds_never_leaves_them(start: float, end: float, num_steps: int, step: int) -> None:
    assert 0 <= linear(start, end, num_steps).at(step) <= 1


@pytest.mark.parametrize("own_optimizer", [False, True])
def test_the_learning_rate_follows_the_steps_of_the_trainer(own_optimizer: bool) -> None:
    """Also with an optimizer of the user's own, in all its groups, and not the optimizer steps within a step."""
    policy = WalkerPolicy()
    groups = [{"params": [policy.logits], "lr": 7.0}, {"params": [policy.values], "lr": 9.0}]
    optimizer = torch.optim.SGD(groups) if own_optimizer else None
    config = PPOConfig(learning_rate=linear(0.4, 0.0), batch_size=5, num_epochs_per_update=2)
    trainer = PPOTrainer(config, policy, StepRewards(), optimizer=optimizer)
    torch.manual_seed(0)
    rates = [trainer.step([0, 1])["learning_rate"] for _ in range(6)]
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    assert trainer.optimizer is not None
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx(
        [0.0, 0.0] if own_optimizer else [0.0]
    )


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    policy = TablePolicy()
    optimizer = torch.optim.SGD([policy.logits], lr=5.0)
    config = GRPOConfig(learning_rate=linear(1.0, 0.0, 2))
    trainer = GRPOTrainer(config, policy, FunctionRewards(grade), optimizer=optimizer)
    changes = []
    for _ in range(4):
        before = policy.logits.detach().clone()
        trainer.step([0, 1, 2])
        changes.append(not torch.equal(policy.logits, before))
    assert changes == [True, True, False, False]


@pytest.mark.parametrize("settings", [{}, {"batch_size": 4}])
def test_a_failed_step_leaves_the_learning_rate_as_it_was(settings: dict[str, int]) -> None:
    policy = TablePolicy()
    config = GRPOConfig(learning_rate=linear(1.0, 0.0), **settings)
    trainer = GRPOTrainer(config, policy, FunctionRewards(grade))
    trainer.step([0])
    trainer.objective = lambda evaluation, decisions: None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="objective returned a NoneType"):
        trainer.step([0])
    assert trainer.optimizer is not None
    assert trainer.optimizer.param_groups[0]["lr"] == 1.0


def test_a_plain_learning_rate_leaves_an_optimizer_of_your_own_alone() -> None:
    policy = TablePolicy()
    optimizer = torch.optim.SGD([policy.logits], lr=0.125)
    with pytest.warns(UserWarning, match="learning_rate=0.5 is not used"):
        trainer = GRPOTrainer(GRPOConfig(learning_rate=0.5), policy, FunctionRewards(grade), optimizer=optimizer)
    assert trainer.step([0])["learning_rate"] == optimizer.param_groups[0]["lr"] == 0.125
    trainer = GRPOTrainer(GRPOConfig(learning_rate=0.5), TablePolicy(), FunctionRewards(grade))
    assert trainer.step([0])["learning_rate"] == 0.5


def test_the_optimizer_that_is_built_takes_the_first_rate_and_epsilon_of_the_config() -> None:
    config = GRPOConfig(learning_rate=linear(0.25, 0.0), adam_epsilon=0.5)
    trainer = GRPOTrainer(config, TablePolicy(), FunctionRewards(grade))
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert [(group["lr"], group["eps"]) for group in trainer.optimizer.param_groups] == [(0.25, 0.5)]


def clipped_terms(surrogate: ClippedSurrogate, step: int) -> Tensor:
    """The losses at ratios 0.5 with A = -1 and 2 with A = 1."""
    log_probs = torch.tensor([0.5, 2.0], dtype=torch.float64).log()
    old_log_probs, advantages = torch.zeros(2, dtype=torch.float64), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    decisions = Decisions(advantages, old_log_probs, None, Segments(2, 1), step=step)
    return surrogate(log_probs, decisions).loss


@pytest.mark.parametrize("kind", [ClippedSurrogate, SampleClippedSurrogate])
def test_the_clip_range_follows_its_schedules(kind: type[ClippedSurrogate]) -> None:
    surrogate = kind(clip_low=linear(0.4, 0.0), clip_high=linear(0.8, 0.4))
    for step, low, high in ((0, 0.4, 0.8), (1, 0.3, 0.7), (2, 0.2, 0.6), (4, 0.0, 0.4), (9, 0.0, 0.4)):
        expected = torch.tensor([1 - low, -(1 + high)], dtype=torch.float64)
        torch.testing.assert_close(clipped_terms(surrogate, step), expected)
        metrics = surrogate(
            torch.tensor([1.35]).log(), Decisions(torch.ones(1), torch.zeros(1), None, Segments(1, 1), step=step)
        ).metrics
        assert metrics["clip_fraction_high"].item() == float(high < 0.35)


@pytest.mark.parametrize("make", [GRPOConfig, PPOConfig])
def test_trainers_hand_the_schedule_and_the_step_to_the_objective(make: type[GRPOConfig] | type[PPOConfig]) -> None:
    low, high = linear(0.3, 0.1), linear(0.5, 0.2)
    config = make(clip_low=low, clip_high=high, group_size=2, num_epochs_per_update=2, batch_size=6)
    trainer: Any
    if isinstance(config, PPOConfig):
        trainer = PPOTrainer(config, WalkerPolicy(), StepRewards())
    else:
        trainer = GRPOTrainer(config, WalkerPolicy(), StepRewards())
    objective = trainer.objective
    assert objective.surrogate.clip_low == low
    assert objective.surrogate.clip_high == high
    steps: list[Any] = []

    def noting(evaluation: Any, decisions: Decisions) -> Any:
        steps.append(decisions.step)
        return objective(evaluation, decisions)

    noting.needs = objective.needs  # type: ignore[attr-defined]
    trainer.objective = noting
    seen = []
    torch.manual_seed(0)
    for _ in range(3):
        trainer.step([0, 1])
        seen.append(set(steps))
        steps.clear()
    assert seen == [{0}, {1}, {2}]
    assert trainer.num_steps == 3


@pytest.mark.parametrize("make", [GRPOConfig, PPOConfig, ClippedSurrogate])
@pytest.mark.parametrize(
    "bad",
    [
        {"clip_low": linear(0.2, 1.1)},
        {"clip_low": linear(-0.1, 0.2)},
        {"clip_low": 1.1},
        {"clip_low": -0.1},
        {"clip_high": linear(-0.1, 0.2)},
        {"clip_high": linear(0.2, -0.1)},
        {"clip_high": -0.1},
        {"clip_low": float("nan")},
        {"clip_high": float("inf")},
    ],
)
def test_clip_ranges_out_of_bounds_are_refused_at_both_ends(make: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        make(**bad)


@pytest.mark.parametrize("rate", [linear(-1e-3, 0.0), linear(1e-3, -1e-3), -1e-3, float("nan"), "fast"])
def test_learning_rates_below_zero_are_refused_at_both_ends(rate: Any) -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        TrainerConfig(learning_rate=rate)


def test_what_is_refused_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"expected 0 to 1, also at both ends of a schedule, got LinearSchedule\(start"
    ):
        PPOConfig(clip_low=linear(0.0, 2.0))
    with pytest.raises(ValueError, match=r"expected a number or LinearSchedule\(start=.*got <function"):
        PPOConfig(learning_rate=lambda remaining: 3e-4 * remaining)


@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("make", [GRPOConfig, ClippedSurrogate])
def test_a_dual_clip_must_exceed_the_widest_clip_of_a_schedule(make: Any, ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"dual_clip is 1\.5, expected more than 1 \+ clip_high = 2\.0"):
        make(clip_high=linear(*ends), dual_clip=1.5)
    with pytest.raises(ValueError, match=r"dual_clip is 2\.0"):
        make(clip_high=linear(*ends), dual_clip=2.0)
    assert make(clip_high=linear(*ends), dual_clip=2.1).dual_clip == 2.1


@pytest.mark.parametrize("bad", [{"num_steps": 0}, {"num_steps": 1.5}, {"start": float("nan")}, {"final": 0.0}])
def test_wrong_schedules(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        LinearSchedule(**({"start": 1.0, "end": 0.0, "num_steps": 3} | bad))


def test_schedules_survive_a_round_trip() -> None:
    config = PPOConfig(learning_rate=linear(1e-3, 0.0), clip_low=linear(0.2, 0.1), clip_high=0.3)
    assert PPOConfig.model_validate_json(config.model_dump_json()) == config


def test_the_entropy_bonus_follows_a_schedule() -> None:
    objective = GRPOObjective(surrogate=ScoreFunctionSurrogate(), entropy_coefficient=linear(0.5, 0.0, 2))
    evaluation = Evaluation(torch.tensor([0.0]), torch.tensor([2.0]))
    losses = [
        objective(evaluation, Decisions(torch.tensor([1.0]), None, None, Segments(1, 1), step=step)).loss.item()
        for step in range(3)
    ]
    assert losses == [-1.0, -0.5, 0.0]
