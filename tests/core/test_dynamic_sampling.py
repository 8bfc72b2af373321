"""Groups without spread are sampled again: the same states, or fresh ones, and what is left at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import FunctionRewards, Quiet, SequencePolicy, TablePolicy
from torch import Tensor

from grpo import (
    DynamicSampling,
    Experience,
    GRPOConfig,
    GRPOTrainer,
    NonFiniteError,
    PartialRewards,
    PPOConfig,
    ReinforceConfig,
)

EQUAL, SPREAD = [1, 1], [1, 2]


class Scripted(TablePolicy):
    """Gives each state the groups that are written for it, one a call.

    Args:
        script: the groups of each state.
    """

    def __init__(self, script: dict[int, list[list[int]]]) -> None:
        super().__init__(num_states=10)
        self.script = {state: list(groups) for state, groups in script.items()}
        self.asked: list[list[int]] = []
        self.evaluated: list[int] = []

    def generate_actions(self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> list[list[int]]:
        assert num_actions_per_state == 2
        self.asked.append(list(states))
        return [self.script[state].pop(0) for state in states]

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[int]) -> Tensor:
        self.evaluated.append(len(actions))
        return super().get_log_probabilities(states, actions)


def build_trainer(
    policy: Any, max_rounds: int, draw_states: Callable[[int], Any] | None = None, rewards: Any = None, **settings: Any
) -> GRPOTrainer[Any, Any]:
    sampling = DynamicSampling(max_rounds=max_rounds, draw_states=draw_states)
    config = GRPOConfig(**({"group_size": 2, "dynamic_sampling": sampling} | settings))
    return GRPOTrainer(config, policy, rewards or FunctionRewards(lambda state, action: float(action)))


def test_the_same_states_by_hand() -> None:
    policy = Scripted({0: [EQUAL, EQUAL, SPREAD], 1: [SPREAD], 2: [[3, 3], [3, 0]], 3: [[0, 0]] * 3})
    trainer = build_trainer(policy, 2, num_epochs_per_update=2)
    experience = trainer.collector.collect([0, 1, 2, 3])
    assert policy.asked == [[0, 1, 2, 3], [0, 2, 3], [0, 3]]
    assert experience.states == [0, 0, 1, 1, 2, 2]  # in the place of the group that had no spread
    assert experience.actions == [1, 2, 1, 2, 3, 0]
    assert experience.groups.lengths.tolist() == [2, 2, 2]
    assert policy.evaluated == [6]  # old log-probs, of what is kept only
    metrics = trainer.update(experience)
    assert metrics["num_groups_resampled"] == 5
    assert metrics["num_groups_zero_std"] == 1
    # those of the first round: 1 1, 1 2, 3 3, 0 0
    assert metrics["frac_reward_zero_std"] == 0.75
    assert metrics["reward"] == pytest.approx(11 / 8)
    assert metrics["reward_std"] == pytest.approx(0.5**0.5 / 4)
    assert metrics["num_samples"] == 6


def test_fresh_states_by_hand() -> None:
    counts, fresh = [], iter([[4, 5, 6], [7]])

    def draw_states(count: int) -> list[int]:
        counts.append(count)
        return next(fresh)

    policy = Scripted({0: [EQUAL], 1: [SPREAD], 4: [SPREAD], 5: [EQUAL], 6: [[2, 3]], 7: [[0, 3]]})
    trainer = build_trainer(policy, 5, draw_states)
    experience = trainer.collector.collect([0, 1])
    assert policy.asked == [[0, 1], [4, 5, 6], [7]]
    assert counts == [1, 1]
    assert experience.states == [4, 4, 6, 6, 7, 7, 1, 1]
    metrics = trainer.update(experience)
    assert (metrics["num_groups_resampled"], metrics["num_groups_zero_std"]) == (4, 0)
    assert metrics["frac_reward_zero_std"] == 0.5


def test_where_no_group_ever_has_spread_those_of_the_first_round_are_kept() -> None:
    policy = Scripted({0: [EQUAL] * 3, 1: [[2, 2]] * 3})
    before = policy.logits.detach().clone()
    metrics = build_trainer(policy, 2).step([0, 1])
    assert len(policy.asked) == 3
    assert (metrics["num_samples"], metrics["reward"], metrics["frac_reward_zero_std"]) == (4, 1.5, 1)
    assert (metrics["num_groups_resampled"], metrics["num_groups_zero_std"]) == (4, 2)
    assert torch.equal(policy.logits, before)


def test_where_all_have_spread_nothing_is_sampled_again() -> None:
    results = []
    for settings in ({}, {"dynamic_sampling": None}):
        policy = Scripted({0: [SPREAD], 1: [SPREAD]})
        results.append((build_trainer(policy, 3, **settings).step([0, 1]), policy.logits.detach()))
        assert len(policy.asked) == 1
    for name in ("num_groups_resampled", "num_groups_zero_std"):
        assert results[0][0].pop(name) == 0
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_generation_options_hold_in_every_round() -> None:
    class Noting(Scripted):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            assert kwargs == {"temperature": 0.5}
            return super().generate_actions(states, num_actions_per_state)

    policy = Noting({0: [EQUAL, SPREAD]})
    build_trainer(policy, 1).step([0], temperature=0.5)
    assert len(policy.asked) == 2


class TokenRewards(Quiet):
    """A reward for every token: only sums tell whether two sequences differ."""

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        return torch.tensor([float(token) for action in actions for token in action], dtype=torch.float64)


def test_rewards_per_decision() -> None:
    groups = iter([[[(1, 2, 0), (2, 1)], [(3, 0), (1, 0)]], [[(1, 1, 1, 0), (2, 2, 0)]]])

    class ScriptedSequences(SequencePolicy):
        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return next(groups)

    trainer = build_trainer(ScriptedSequences(), 1, rewards=TokenRewards())
    experience = trainer.collector.collect([1, 2])
    assert experience.states == [1, 1, 2, 2]
    assert experience.rewards.tolist() == [1, 1, 1, 0, 2, 2, 0, 3, 0, 1, 0]
    assert experience.sample_rewards.values.tolist() == [3, 4, 3, 1]
    assert experience.metrics["reward"] == pytest.approx((3 + 3 + 3 + 1) / 4)


class FlakyRewards(Quiet):
    """Scores as many samples of each call as it is told, from the first on."""

    def __init__(self, num_scored: list[int]) -> None:
        self.num_scored = num_scored

    def compute_rewards(self, states: Any, actions: Any) -> PartialRewards:
        scored = torch.arange(len(actions)) < self.num_scored.pop(0)
        values = torch.tensor([float(action) for action in actions])
        return PartialRewards(values.where(scored, torch.nan), scored)


def test_samples_that_were_not_scored() -> None:
    """State 1 loses a sample and with it its spread, state 2 is lost; state 0 is lost in the round after."""
    policy = Scripted({0: [EQUAL, SPREAD, EQUAL], 1: [SPREAD, [2, 1]], 2: [SPREAD]})
    trainer = build_trainer(policy, 3, rewards=FlakyRewards([3, 4]))
    experience = trainer.collector.collect([0, 1, 2])
    assert policy.asked == [[0, 1, 2], [0, 1]]
    assert experience.states == [0, 0, 1, 1]
    assert experience.rewards.tolist() == [1, 2, 2, 1]
    assert experience.metrics["num_unscored"] == 3
    assert experience.metrics["frac_reward_zero_std"] == 1


def test_a_later_round_of_which_nothing_was_scored_ends_it() -> None:
    policy = Scripted({0: [EQUAL] * 3, 1: [SPREAD]})
    experience = build_trainer(policy, 2, rewards=FlakyRewards([4, 0])).collector.collect([0, 1])
    assert policy.asked == [[0, 1], [0]]
    assert experience.states == [1, 1]
    assert experience.metrics["num_unscored"] == 2
    with pytest.raises(ValueError, match="scored none of the 4 samples"):
        build_trainer(Scripted({0: [EQUAL], 1: [SPREAD]}), 2, rewards=FlakyRewards([0])).step([0, 1])


@given(
    states=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    max_rounds=st.integers(1, 4),
    seed=st.integers(0, 200),
    policy_class=st.sampled_from([TablePolicy, SequencePolicy]),
)
def test_what_is_kept(states: list[int], max_rounds: int, seed: int, policy_class: type[Any]) -> None:
    """Every group that had spread in any round, in its place, and nothing else, unless there is none."""
    seen: list[Experience] = []

    class Noting(policy_class):  # type: ignore[misc]
        def generate_actions(self, own: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            groups = super().generate_actions(own, num_actions_per_state)
            seen.append(plain.collector.score(own, groups))
            return groups

    def reward(state: int, action: Any) -> float:
        return float(action == 0 if isinstance(action, int) else len(action) > 2)

    torch.manual_seed(seed)
    plain: GRPOTrainer[Any, Any] = GRPOTrainer(GRPOConfig(group_size=2), policy_class(), FunctionRewards(reward))
    trainer = build_trainer(Noting(), max_rounds, rewards=FunctionRewards(reward))
    experience = trainer.collector.collect(states)
    placed: list[tuple[int, tuple[int, Any]]] = []
    places = list(range(len(states)))
    for own in seen:
        has_spread = (own.sample_rewards.std > 0).tolist()
        placed += [
            (place, (own.states[2 * group], own.actions[2 * group : 2 * group + 2]))  # type: ignore[index]
            for group, place in enumerate(places)
            if has_spread[group]
        ]
        places = [place for place, spread in zip(places, has_spread, strict=True) if not spread]
    expected = [group for _, group in sorted(placed, key=lambda placed_group: placed_group[0])]
    kept = [
        (experience.states[2 * group], experience.actions[2 * group : 2 * group + 2])  # type: ignore[index]
        for group in range(len(experience.groups))
    ]
    assert len(seen) <= 1 + max_rounds
    assert all(bool((own.sample_rewards.std == 0).any()) for own in seen[:-1])
    if expected:
        assert kept == expected
        assert (experience.sample_rewards.std > 0).all()
    else:
        assert experience.actions == seen[0].actions
    assert experience.metrics["num_groups_resampled"] == sum(len(own.groups) for own in seen[1:])


@pytest.mark.parametrize("config_class", [GRPOConfig, PPOConfig, ReinforceConfig])
def test_a_group_of_one_has_nothing_to_compare(config_class: type[Any]) -> None:
    with pytest.raises(ValueError, match="group_size is 1, expected at least 2"):
        config_class(group_size=1, dynamic_sampling=DynamicSampling(max_rounds=1))
    with pytest.raises(ValueError, match="max_rounds"):
        DynamicSampling(max_rounds=0)


@pytest.mark.parametrize(
    ("drawn", "error", "message"),
    [
        ([], ValueError, "what dynamic_sampling.draw_states returned is empty"),
        ("text", TypeError, "what dynamic_sampling.draw_states returned is a str, expected a batch"),
        (None, TypeError, "what dynamic_sampling.draw_states returned is a NoneType"),
    ],
)
def test_wrong_fresh_states(drawn: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_trainer(Scripted({0: [EQUAL]}), 1, lambda count: drawn).step([0])


def test_a_reward_of_a_later_round_that_is_not_finite() -> None:
    def reward(state: int, action: int) -> float:
        return float("nan") if action == 3 else float(action)

    for non_finite in ("raise", "skip"):
        policy = Scripted({0: [EQUAL, [0, 3]]})
        trainer = build_trainer(policy, 1, rewards=FunctionRewards(reward), non_finite=non_finite)
        if non_finite == "raise":
            with pytest.raises(NonFiniteError, match="nan for sample 1"):
                trainer.step([0])
        else:
            assert trainer.step([0]) == {"num_updates": 0.0, "skipped_updates": 1.0}


def test_it_learns_where_most_groups_tell_nothing() -> None:
    """One action in four is right, groups of two: with sampling again, every update sees groups with spread."""
    torch.manual_seed(0)
    policy = TablePolicy()
    grade = FunctionRewards(lambda state, action: float(action == state))
    trainer = build_trainer(policy, 5, rewards=grade, learning_rate=0.05)
    for _ in range(100):
        metrics = trainer.step([0, 1, 2])
    assert metrics["reward"] >= 5 / 6
    assert policy.logits.softmax(-1)[range(3), range(3)].min() > 0.7
