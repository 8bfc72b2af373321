"""``target_kl``: the rest of a rollout's updates is left out once the policy has moved too far."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FunctionRewards, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import Decisions, Evaluation, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, Terms

TOLERANCE = 1.5


class Recording(torch.optim.SGD):
    """Remembers the parameters after each of its steps."""

    def __init__(self, policy: WalkerPolicy, learning_rate: float = 2.0) -> None:
        super().__init__(policy.get_parameters().values(), lr=learning_rate)
        self.policy = policy
        self.snapshots: list[Tensor] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.snapshots.append(parameters_of(self.policy))


def parameters_of(policy: WalkerPolicy) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in policy.get_parameters().values()])


def one_step(**config: Any) -> tuple[dict[str, float], list[Tensor], list[float]]:
    """Metrics of a step, the parameters after each update, and ``approx_kl`` that each update began with."""
    torch.manual_seed(0)
    policy = WalkerPolicy()
    optimizer = Recording(policy)
    config = {"num_epochs_per_update": 4, "batch_size": 16, "max_grad_norm": None, "group_size": 4} | config
    trainer = PPOTrainer(PPOConfig(**config), policy, StepRewards(), optimizer=optimizer)
    objective = trainer.objective
    divergences: list[float] = []

    def noting(evaluation: Evaluation, decisions: Decisions) -> Terms:
        terms = objective(evaluation, decisions)
        divergences.append(terms.metrics["approx_kl"].mean().item())
        return terms

    trainer.objective = noting
    return trainer.step([0, 1, 2]), optimizer.snapshots, divergences


def test_a_step_stops_before_the_first_update_that_begins_too_far_away() -> None:
    free, free_snapshots, free_divergences = one_step()
    target = sorted(free_divergences)[len(free_divergences) // 2] / TOLERANCE
    crossing = next(index for index, kl in enumerate(free_divergences) if kl > TOLERANCE * target)
    metrics, snapshots, divergences = one_step(target_kl=target)
    assert 0 < crossing < free["num_updates"] - 1
    assert metrics["num_updates"] == len(snapshots) == crossing
    assert len(divergences) == crossing + 1
    assert torch.equal(snapshots[-1], free_snapshots[crossing - 1])
    assert metrics["approx_kl"] == pytest.approx(sum(divergences[:-1]) / crossing)
    assert metrics["skipped_updates"] == 0


@settings(max_examples=20)
@given(micro_batch_size=st.integers(1, 20), target=st.sampled_from([1e-4, 1e-3, 3e-3, 1e-2, 3e-2]))
def test_stopping_does_not_depend_on_micro_batches(micro_batch_size: int, target: float) -> None:
    whole, whole_snapshots, _ = one_step(target_kl=target)
    split, snapshots, _ = one_step(target_kl=target, micro_batch_size=micro_batch_size)
    assert split["num_updates"] == whole["num_updates"]
    torch.testing.assert_close(snapshots[-1], whole_snapshots[-1], rtol=1e-6, atol=1e-9)
    assert split == pytest.approx(whole, rel=1e-6, abs=1e-9)


def test_targets_take_effect_one_after_another() -> None:
    updates = [one_step(target_kl=target)[0]["num_updates"] for target in (1e-9, 1e-3, 1e-2, 1e9)]
    assert updates == sorted(updates)
    assert updates[0] == 1  # the first update begins at the policy that sampled
    assert updates[-1] == one_step()[0]["num_updates"]
    assert len(set(updates)) > 2


def test_the_bound_is_one_and_a_half_times_the_target() -> None:
    _, _, divergences = one_step()
    second = divergences[1]
    assert one_step(target_kl=second / TOLERANCE * 1.001)[0]["num_updates"] > 1
    assert one_step(target_kl=second / TOLERANCE * 0.999)[0]["num_updates"] == 1


def test_the_next_step_starts_afresh() -> None:
    torch.manual_seed(0)
    policy = WalkerPolicy()
    config = PPOConfig(target_kl=1e-9, num_epochs_per_update=3, batch_size=8, learning_rate=0.1)
    trainer = PPOTrainer(config, policy, StepRewards())
    for _ in range(3):
        before = policy.logits.detach().clone()
        assert trainer.step([0, 1, 2])["num_updates"] == 1
        assert not torch.equal(policy.logits, before)
    assert trainer.num_steps == 3


class Unsteady(TablePolicy):
    """Gives other log-probs in training mode, as dropout does."""

    is_training = False

    def train(self) -> None:
        self.is_training = True

    def eval(self) -> None:
        self.is_training = False

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        return super().get_log_probabilities(states, actions) - 0.5 * self.is_training


def test_a_whole_step_that_is_left_out_is_told() -> None:
    config = GRPOConfig(target_kl=0.01, num_epochs_per_update=2)
    trainer = GRPOTrainer(config, Unsteady(), FunctionRewards(lambda state, action: action))
    with pytest.warns(UserWarning, match=r"target_kl=0.01 has left out a whole step: approx_kl is beyond it.*dropout"):
        metrics = trainer.step([0, 1])
    assert metrics["num_updates"] == 0


def test_an_objective_must_report_how_far_the_policy_has_moved() -> None:
    def objective(evaluation: Evaluation, decisions: Decisions) -> Terms:
        return Terms(-decisions.advantages * evaluation.log_probs, {"mine": decisions.advantages})

    policy = TablePolicy()
    before = policy.logits.detach().clone()
    rewards = FunctionRewards(lambda state, action: float(action))
    trainer = GRPOTrainer(GRPOConfig(target_kl=0.1), policy, rewards, objective=objective)
    with pytest.raises(ValueError, match=r"target_kl needs a metric 'approx_kl', but the objective .*\['mine'\]"):
        trainer.step([0, 1])
    assert torch.equal(policy.logits, before)


@pytest.mark.parametrize("target", [0.0, -0.1, float("nan")])
def test_wrong_targets(target: float) -> None:
    with pytest.raises(ValueError, match="target_kl"):
        GRPOConfig(target_kl=target)
