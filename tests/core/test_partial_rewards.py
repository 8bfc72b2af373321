"""Samples that could not be scored are left out: of groups, of the loss, of metrics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, Quiet, SequencePolicy, TablePolicy

from grpo import (
    ConformanceError,
    GRPOConfig,
    GRPOTrainer,
    NonFiniteError,
    PartialRewards,
    check_reward_model,
)


def grade(state: int, action: Any) -> float:
    return float(sum(action) - len(action)) if isinstance(action, tuple) else float(action - state)


class FailingRewards(FunctionRewards):
    """Cannot score some samples.

    Args:
        scored: whether each sample of a call can be scored; None for all.
    """

    def __init__(self, scored: list[bool] | None) -> None:
        super().__init__(grade)
        self.scored = scored

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        values = super().compute_rewards(states, actions)
        scored = torch.ones(len(actions), dtype=torch.bool) if self.scored is None else torch.tensor(self.scored)
        return PartialRewards(values.masked_fill(~scored, torch.nan), scored)


def build_trainer(policy: Any, rewards: Any, **settings: Any) -> GRPOTrainer[Any, Any]:
    optimizer = torch.optim.SGD(policy.get_parameters().values(), lr=1.0)
    config = GRPOConfig(**({"group_size": 3, "max_grad_norm": None} | settings))
    return GRPOTrainer(config, policy, rewards, optimizer=optimizer)


def test_by_hand() -> None:
    """The second group loses one sample, the third all of them, and its state with them."""
    rewards = FailingRewards([True, True, True, True, False, True, False, False, False])
    trainer = build_trainer(TablePolicy(), rewards, num_epochs_per_update=2)
    experience = trainer.collector.score([0, 1, 2], [[0, 1, 2], [3, 0, 2], [1, 1, 1]])
    assert experience.states == [0, 0, 0, 1, 1]
    assert experience.actions == [0, 1, 2, 3, 2]
    assert experience.groups.lengths.tolist() == [3, 2]
    assert experience.rewards.tolist() == [0, 1, 2, 2, 1]
    assert experience.old_log_probs is not None
    assert len(experience.batch.samples) == len(experience.old_log_probs) == 5
    metrics = trainer.update(experience)
    assert metrics["num_unscored"] == 4
    assert metrics["num_samples"] == 5
    assert metrics["reward"] == pytest.approx(6 / 5)


def test_groups_that_stay_equal_in_size() -> None:
    trainer = build_trainer(TablePolicy(), FailingRewards([True, True, False] * 2))
    experience = trainer.collector.score([0, 1], [[0, 1, 2], [3, 0, 2]])
    assert experience.groups.uniform_length == 2
    assert experience.actions == [0, 1, 3, 0]


def test_states_and_actions_that_are_tensors_stay_tensors() -> None:
    class Tensors(TablePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return torch.tensor(super().generate_actions(states.tolist(), num_actions_per_state))

        def get_log_probabilities(self, states: Any, actions: Any) -> torch.Tensor:
            return self.logits.log_softmax(-1)[states, actions]

    trainer = build_trainer(Tensors(), FailingRewards([False, True, True] * 2))
    experience = trainer.collector.collect(torch.tensor([0, 1]))
    assert isinstance(experience.states, torch.Tensor)
    assert isinstance(experience.actions, torch.Tensor)
    assert experience.states.tolist() == [0, 0, 1, 1]


@given(scored=st.lists(st.booleans(), min_size=9, max_size=9).filter(any), seed=st.integers(0, 50))
@pytest.mark.parametrize("policy_class", [TablePolicy, SequencePolicy])
def test_a_step_is_the_same_as_one_of_the_scored_samples_alone(
    policy_class: type[Any], scored: list[bool], seed: int
) -> None:
    torch.manual_seed(seed)
    groups = policy_class().generate_actions([0, 1, 2], 3)
    marks = [scored[3 * index : 3 * index + 3] for index in range(3)]
    kept = [[action for action, mark in zip(*pair, strict=True) if mark] for pair in zip(groups, marks, strict=True)]
    states = [state for state, group in zip([0, 1, 2], kept, strict=True) if group]
    cases: list[tuple[Any, list[int], list[Any]]] = [
        (FailingRewards(scored), [0, 1, 2], groups),
        (FunctionRewards(grade), states, [group for group in kept if group]),
    ]
    results = []
    for rewards, own_states, own_groups in cases:
        policy = policy_class()
        trainer = build_trainer(policy, rewards)
        metrics = trainer.update(trainer.collector.score(own_states, own_groups))
        results.append((metrics, [tensor.detach() for tensor in policy.get_parameters().values()]))
    assert results[0][0].pop("num_unscored") == 9 - sum(scored)
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1][0], results[1][1][0])


def test_where_all_are_scored_it_is_reported_that_none_was_not() -> None:
    assert build_trainer(TablePolicy(), FailingRewards(None)).step([0, 1])["num_unscored"] == 0
    assert "num_unscored" not in build_trainer(TablePolicy(), FunctionRewards(grade)).step([0, 1])


def test_none_scored() -> None:
    policy = TablePolicy()
    before, random_state = policy.logits.detach().clone(), torch.get_rng_state()
    trainer = build_trainer(policy, FailingRewards([False] * 6))
    with pytest.raises(ValueError, match=r"compute_rewards scored none of the 6 samples, .* see why"):
        trainer.step([0, 1])
    assert torch.equal(policy.logits, before)
    assert torch.equal(torch.get_rng_state(), random_state)


def mask(*scored: bool) -> torch.Tensor:
    return torch.tensor(scored)


@pytest.mark.parametrize(
    ("values", "scored", "error", "message"),
    [
        (torch.ones(2), [True, True], ValueError, r"with scored of type list, expected a bool tensor of shape \[2\]"),
        (torch.ones(2), torch.ones(2), ValueError, r"with scored of dtype torch.float32 and shape \[2\]"),
        (torch.ones(2), mask(True), ValueError, r"with scored of dtype torch.bool and shape \[1\]"),
        (torch.ones(1), mask(True, True), ValueError, r"shape \[1\], expected \[2\]"),
        (torch.ones(2, 1), mask(True, True), ValueError, r"shape \[2, 1\], expected \[2\]: squeeze"),
        (torch.ones(2).long(), mask(True, False), TypeError, "dtype torch.int64, expected a floating-point"),
        ([1.0, 2.0], mask(True, False), TypeError, "returned a list, expected a tensor"),
        (torch.tensor([0.0, torch.nan]), mask(False, True), NonFiniteError, "nan for sample 1"),
        (torch.ones(2, device="meta"), mask(True, False), ValueError, "device meta, expected cpu"),
    ],
)
def test_wrong_partial_rewards(values: Any, scored: Any, error: type[Exception], message: str) -> None:
    class Wrong(Quiet):
        def compute_rewards(self, states: Any, actions: Any) -> Any:
            return PartialRewards(values, scored)

    with pytest.raises(error, match=f"compute_rewards.*{message}"):
        build_trainer(TablePolicy(), Wrong()).collector.score([0], [[1, 2]])
    with pytest.raises(ConformanceError, match=message):
        check_reward_model(Wrong(), [0, 0], [1, 2])


def test_the_conformance_kit_takes_partial_rewards() -> None:
    class Odd(Quiet):
        def compute_rewards(self, states: Any, actions: Any) -> PartialRewards:
            scored = torch.tensor([action % 2 == 1 for action in actions])
            return PartialRewards(torch.where(scored, 1.0, torch.nan), scored)

    check_reward_model(Odd(), [0, 1, 2], [0, 1, 2])
