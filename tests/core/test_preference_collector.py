"""Pairs of a policy's own samples: which make a pair, which do not, what is told of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, Quiet, SequencePolicy, StepRewards, TablePolicy, WalkerPolicy
from torch import Tensor

from grpo import (
    DPOConfig,
    DPOTrainer,
    NonFiniteError,
    PartialRewards,
    Preference,
    PreferenceCollector,
)


def value(state: int, action: Any) -> float:
    return float(10 * state + action)


def build(
    policy: Any = None, rewards: Any = None, group_size: int = 4, dtype: torch.dtype = torch.float64
) -> PreferenceCollector[Any, Any]:
    return PreferenceCollector(policy or TablePolicy(), rewards or FunctionRewards(value, dtype), group_size=group_size)


def test_the_best_and_the_worst_of_each_group() -> None:
    collected = build().score([2, 0, 1], [[1, 3, 0, 2], [2, 1], [0, 0, 1]])
    assert collected.preferences == [Preference(2, 3, 0), Preference(0, 2, 1), Preference(1, 1, 0)]
    expected = {
        "reward": (86 + 3 + 31) / 9,
        "reward_std": (1.6666666666666667**0.5 + 0.5**0.5 + (1 / 3) ** 0.5) / 3,
        "frac_reward_zero_std": 0.0,
        "num_samples": 9.0,
        "num_decisions": 9.0,
        "num_pairs": 3.0,
        "num_groups_zero_std": 0.0,
        "num_groups_identical": 0.0,
    }
    assert collected.metrics == pytest.approx(expected)
    assert all(isinstance(own, float) for own in collected.metrics.values())


def test_of_equal_rewards_the_last_is_the_best_and_the_first_the_worst() -> None:
    rewards = FunctionRewards(lambda state, action: float(action >= 2))
    for group, best, worst in (([1, 2, 0, 3], 3, 1), ([3, 0, 1, 2], 2, 0), ([0] * 40 + [2, 1, 3] + [1] * 40, 3, 0)):
        assert build(rewards=rewards).score([0], [group]).preferences == [Preference(0, best, worst)]


def test_groups_without_spread_make_no_pair_and_are_counted() -> None:
    collected = build().score([0, 1, 2], [[1, 1, 1], [3], [0, 2]])
    assert collected.preferences == [Preference(2, 2, 0)]
    assert collected.metrics["num_groups_zero_std"] == 2
    assert collected.metrics["num_groups_identical"] == 0
    assert collected.metrics["num_pairs"] == 1
    assert collected.metrics["frac_reward_zero_std"] == pytest.approx(2 / 3)


def test_no_group_with_spread_makes_no_pair_at_all() -> None:
    collected = build().score([0, 1], [[1, 1], [2]])
    assert collected.preferences == []
    assert collected.metrics["num_pairs"] == 0


class NoisyRewards(Quiet):
    """Rewards that come in the order of the calls, whatever the action."""

    def __init__(self, rewards: Any) -> None:
        self.rewards = rewards

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        return self.rewards


def test_groups_in_which_only_the_same_action_was_rewarded_less_make_no_pair_and_are_counted() -> None:
    rewards = NoisyRewards(torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0, 2.0, 2.0, 2.0, 0.5]))
    collected = build(rewards=rewards).score([0, 1, 2, 0], [[1, 1, 1], [3, 0], [1, 1], [2, 2]])
    assert collected.preferences == [Preference(1, 0, 3)]
    assert collected.metrics["num_groups_identical"] == 2
    assert collected.metrics["num_groups_zero_std"] == 1
    assert collected.metrics["num_pairs"] == 1


def test_the_rejected_action_is_the_worst_that_is_another_one() -> None:
    """The best one was given the least reward too; an action that was rewarded as much is no worse."""
    rewards = NoisyRewards(torch.tensor([0.0, 0.5, 0.7, 1.0, 0.0, 1.0, 1.0]))
    collected = build(rewards=rewards).score([0, 1], [[1, 3, 2, 1], [2, 3, 2]])
    assert collected.preferences == [Preference(0, 1, 3)]
    assert collected.metrics["num_groups_identical"] == 1


@dataclass
class Move:
    to: Tensor


@pytest.mark.parametrize("kind", [torch.tensor, lambda own: Move(torch.tensor(own)), list])
def test_the_same_action_is_recognised_whatever_it_is_made_of(kind: Any) -> None:
    class Anything(TablePolicy):
        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            raise NotImplementedError

    rewards = NoisyRewards(torch.tensor([0.0, 1.0, 0.0, 1.0]))
    groups = [[kind([1, 2]), kind([1, 2])], [kind([1, 2]), kind([2, 1])]]
    collected = build(Anything(), rewards).score([0, 1], groups)
    assert [pair.state for pair in collected.preferences] == [1]
    assert collected.metrics["num_groups_identical"] == 1


def test_rewards_per_decision_are_summed_up() -> None:
    """A step costs 0.1 and the end is worth 1; the long walk that gets there is worth less than the short one."""
    short, long = [[(2, 1, 3), (3, 1, 4)]], [[(2, 0, 1), (1, 1, 2), (2, 1, 3), (3, 1, 4)]]
    lost = [[(2, 0, 1), (1, 0, 0), (0, 0, 0)]]
    collected = build(WalkerPolicy(num_episodes=1), StepRewards()).score([2], [[long, lost, short]])
    assert collected.preferences == [Preference(2, short, lost)]
    assert collected.metrics["reward"] == pytest.approx((0.6 - 0.3 + 0.8) / 3)


def test_samples_that_were_not_scored_are_left_out() -> None:
    values = torch.tensor([5.0, 1.0, torch.nan, 2.0, torch.nan, 1.0, torch.nan, torch.nan])
    rewards = NoisyRewards(PartialRewards(values, ~values.isnan()))
    collected = build(rewards=rewards).score([0, 1, 2, 0], [[3, 0, 2], [1, 2], [3], [0, 1]])
    assert collected.preferences == [Preference(0, 3, 0)]
    assert collected.metrics["num_unscored"] == 4
    assert collected.metrics["num_groups_zero_std"] == 2
    with pytest.raises(ValueError, match="compute_rewards scored none of the 2 samples"):
        build(rewards=NoisyRewards(PartialRewards(torch.zeros(2), torch.zeros(2, dtype=torch.bool)))).score(
            [0], [[1, 2]]
        )


@given(
    groups=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_pairs_of_any_groups(groups: list[list[int]], scale: float, dtype: torch.dtype) -> None:
    """At most one a group, of that group's state and actions, the highest reward above the lowest."""
    states = [index % 3 for index in range(len(groups))]
    rewards = FunctionRewards(lambda state, action: scale * (action - state), dtype)
    collected = build(rewards=rewards).score(states, groups)
    expected = [
        Preference(state, max(group), min(group))
        for state, group in zip(states, groups, strict=True)
        if max(group) > min(group)
    ]
    assert collected.preferences == expected
    assert collected.metrics["num_pairs"] + collected.metrics["num_groups_zero_std"] == len(groups)


@pytest.mark.parametrize("policy_class", [TablePolicy, SequencePolicy])
def test_samples_of_the_policy_make_pairs_that_can_be_learnt_from(policy_class: Any) -> None:
    torch.manual_seed(0)

    def grade(state: int, action: Any) -> float:
        return float(len(action) if isinstance(action, tuple) else action == state)

    policy = policy_class()
    collector = build(policy, FunctionRewards(grade), group_size=6)
    trainer: DPOTrainer[Any, Any] = DPOTrainer(DPOConfig(learning_rate=0.1), policy, policy_class())
    rewards = []
    for _ in range(60):
        collected = collector.collect([0, 1, 2])
        assert collected.metrics["num_pairs"] == len(collected.preferences)
        rewards.append(collected.metrics["reward"])
        if collected.preferences:
            trainer.step(collected.preferences)
    assert sum(rewards[-10:]) > 1.2 * sum(rewards[:10])


def test_the_policy_samples_in_evaluation_mode_and_is_told_the_arguments() -> None:
    class Watched(TablePolicy):
        mode = "train"
        seen: Any = None

        def eval(self) -> None:
            self.mode = "eval"

        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            self.seen = (self.mode, torch.is_grad_enabled(), num_actions_per_state, kwargs)
            return super().generate_actions(states, num_actions_per_state)

    policy = Watched()
    build(policy, group_size=5).collect([0, 1], temperature=0.5)
    assert policy.seen == ("eval", False, 5, {"temperature": 0.5})
    default = Watched()
    PreferenceCollector(default, FunctionRewards(value)).collect([0])
    assert default.seen[2] == 8


@pytest.mark.parametrize("group_size", [1, 0, -1])
def test_a_pair_has_two_actions(group_size: int) -> None:
    with pytest.raises(ValueError, match=f"group_size is {group_size}, expected at least 2: a pair has two actions"):
        build(group_size=group_size)
    build(group_size=2).collect([0])


def test_not_models() -> None:
    with pytest.raises(TypeError, match="reward_model Quiet is not a RewardModel: it lacks compute_rewards"):
        build(rewards=Quiet())
    with pytest.raises(TypeError, match="policy Quiet is not a PolicyModel: it lacks generate_actions"):
        build(policy=Quiet())


@pytest.mark.parametrize("method", ["collect", "score"])
@pytest.mark.parametrize(
    ("rewards", "error", "message"),
    [
        (torch.zeros(2, 1), ValueError, r"compute_rewards returned shape \[2, 1\], expected \[2\]"),
        (torch.tensor([1.0, torch.nan]), NonFiniteError, "compute_rewards returned nan for sample 1"),
        ([0.0, 1.0], TypeError, "compute_rewards returned a list, expected a tensor"),
    ],
)
def test_wrong_rewards_leave_random_generators_as_they_were(
    method: str, rewards: Any, error: type[Exception], message: str
) -> None:
    class Drawing(NoisyRewards):
        generator = torch.Generator().manual_seed(0)

        def compute_rewards(self, states: Any, actions: Any) -> Any:
            torch.rand(1)
            torch.rand(1, generator=self.generator)
            random.random()
            return super().compute_rewards(states, actions)

    model = Drawing(rewards)
    collector = build(rewards=model, group_size=2)
    before = torch.get_rng_state(), model.generator.get_state(), random.getstate()
    with pytest.raises(error, match=message):
        collector.collect([0]) if method == "collect" else collector.score([0], [[0, 1]])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(model.generator.get_state(), before[1])
    assert random.getstate() == before[2]


def test_a_policys_generator_is_put_back_too() -> None:
    class Drawing(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            torch.rand(1, generator=self.generator)
            return super().generate_actions(states, num_actions_per_state - 1)

    policy = Drawing()
    before = policy.generator.get_state()
    with pytest.raises(ValueError, match="generate_actions returned 3 actions for state 0, expected 4"):
        build(policy).collect([0])
    assert torch.equal(policy.generator.get_state(), before)


@pytest.mark.parametrize(
    ("states", "groups", "error", "message"),
    [
        ([], [], ValueError, "states is empty"),
        ([0], [[0, 1], [2, 3]], ValueError, "score was given 2 groups, expected 1"),
        ([0, 1], [[0, 1], []], ValueError, "score was given 0 actions for state 1"),
        ([0], [3], TypeError, "score was given a int for state 0"),
    ],
)
def test_wrong_groups_to_score(states: Any, groups: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build().score(states, groups)


def test_a_pair_does_not_keep_the_rollout_that_it_comes_from() -> None:
    collector = build(group_size=2)
    collected = collector.score(torch.zeros(20, dtype=torch.int64), [torch.arange(2)] * 20)
    assert len(collected.preferences) == 20
    for pair in collected.preferences:
        assert all(own.untyped_storage().nbytes() == own.nbytes for own in (pair.state, pair.chosen, pair.rejected))
