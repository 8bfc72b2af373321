"""Group-relative advantages: constants worked out by hand, and what holds for any rewards."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo import (
    GeneralizedAdvantage,
    GroupedRewards,
    GroupRelative,
    MonteCarlo,
    Segments,
    batch_normalized_advantages,
    group_centered_advantages,
    group_normalized_advantages,
    leave_one_out_advantages,
)

Function = Callable[[GroupedRewards], Tensor]
FUNCTIONS = [
    group_centered_advantages,
    group_normalized_advantages,
    batch_normalized_advantages,
    leave_one_out_advantages,
]
SCALED = [group_normalized_advantages, batch_normalized_advantages]
every_function = pytest.mark.parametrize("function", FUNCTIONS)
group_of_rewards = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6)
rewards_in_groups = st.lists(group_of_rewards, min_size=1, max_size=5)


def grouped(groups: list[list[float]]) -> GroupedRewards:
    values = torch.tensor([reward for group in groups for reward in group], dtype=torch.float64)
    return GroupedRewards(values, Segments.of_lengths([len(group) for group in groups]))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (group_centered_advantages, [-1.5, -0.5, 0.5, 1.5, -1.0, 1.0]),
        # std of 0 1 2 3 is √(5/3), of 4 6 is √2
        (group_normalized_advantages, [-1.161895, -0.387298, 0.387298, 1.161895, -0.707107, 0.707107]),
        # all six: mean 8/3, sum of squares 66 - 6 · 64/9 = 23.3333, std √(23.3333/5) = 2.160247
        (batch_normalized_advantages, [-0.694365, -0.231455, 0.231455, 0.694365, -0.462910, 0.462910]),
        # 0 - (1+2+3)/3, 1 - 5/3, 2 - 4/3, 3 - 1; 4 - 6, 6 - 4
        (leave_one_out_advantages, [-2.0, -2 / 3, 2 / 3, 2.0, -2.0, 2.0]),
    ],
)
def test_constants(function: Function, expected: list[float]) -> None:
    advantages = function(grouped([[0.0, 1.0, 2.0, 3.0], [4.0, 6.0]]))
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


@every_function
@given(groups=rewards_in_groups)
def test_advantages_sum_to_zero_in_a_group(function: Function, groups: list[list[float]]) -> None:
    rewards = grouped(groups)
    sums = rewards.groups.sum(function(rewards))
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-6)


@every_function
@given(groups=rewards_in_groups, shift=st.integers(-50, 50))
def test_a_constant_added_to_all_rewards_changes_nothing(
    function: Function, groups: list[list[float]], shift: int
) -> None:
    rewards = grouped([[round(reward, 2) for reward in group] for group in groups])
    shifted = GroupedRewards(rewards.values + shift, rewards.groups)
    torch.testing.assert_close(function(shifted), function(rewards), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f is not batch_normalized_advantages])
@given(groups=rewards_in_groups, shift=st.integers(-50, 50))
def test_a_constant_added_to_one_group_changes_nothing(
    function: Function, groups: list[list[float]], shift: int
) -> None:
    groups = [[round(reward, 2) for reward in group] for group in groups]
    shifted = [[reward + shift for reward in groups[0]], *groups[1:]]
    torch.testing.assert_close(function(grouped(shifted)), function(grouped(groups)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", SCALED)
@given(groups=rewards_in_groups, scale=st.floats(0.1, 10))
def test_a_positive_factor_changes_nothing_where_scaled_by_std(
    function: Function, groups: list[list[float]], scale: float
) -> None:
    rewards = grouped([[round(reward, 2) for reward in group] for group in groups])
    scaled = GroupedRewards(rewards.values * scale, rewards.groups)
    torch.testing.assert_close(function(scaled), function(rewards), rtol=1e-6, atol=1e-6)


@every_function
@given(reward=st.floats(-1e4, 1e4, width=32), size=st.integers(1, 9), others=rewards_in_groups)
def test_equal_rewards_get_exactly_zero(
    function: Function, reward: float, size: int, others: list[list[float]]
) -> None:
    advantages = function(grouped([[reward] * size, *others]))
    assert not advantages[:size].any()
    assert advantages.isfinite().all()


@every_function
@given(groups=st.lists(st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=2, max_size=4))
def test_groups_of_equal_and_of_different_sizes_take_the_same_formula(
    function: Function, groups: list[list[float]]
) -> None:
    equal = function(grouped(groups))
    with_another_size = function(grouped([*groups, [1.0]]))
    if function is not batch_normalized_advantages:
        torch.testing.assert_close(with_another_size[:-1], equal)
    general = Segments.of_lengths([3] * len(groups))
    general.uniform_length = None
    torch.testing.assert_close(function(GroupedRewards(grouped(groups).values, general)), equal)


@pytest.mark.parametrize("function", SCALED)
@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e20, 1e37])
@pytest.mark.parametrize("sizes", [[3, 3], [4, 2]])
def test_no_scale_of_float32_is_too_small_or_too_large(function: Function, scale: float, sizes: list[int]) -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 1.5, 2.5, 0.5])
    groups = Segments.of_lengths(sizes)
    torch.testing.assert_close(
        function(GroupedRewards(values * scale, groups)), function(GroupedRewards(values, groups)), rtol=1e-4, atol=1e-4
    )


def test_float64_stays_float64() -> None:
    values = torch.tensor([0.1, 0.7, 0.4], dtype=torch.float64)
    expected = torch.tensor([0.1 - 0.55, 0.7 - 0.25, 0.4 - 0.4], dtype=torch.float64)
    advantages = leave_one_out_advantages(GroupedRewards(values, Segments(1, 3)))
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("wrong", ["leave_one_out", None, torch.nn.Linear])
def test_a_group_function_that_is_none(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"function is .*, expected one from grpo\.GroupedRewards to advantages \[N\]"):
        GroupRelative(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [GroupRelative(), GeneralizedAdvantage(), MonteCarlo()])
def test_an_estimator_in_place_of_a_group_function(wrong: Any) -> None:
    with pytest.raises(TypeError, match="which estimates advantages by itself: pass it as advantage_estimator"):
        GroupRelative(wrong)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1.0, 2.0], TypeError, r"values of GroupedRewards are list, expected a tensor such as torch\.tensor"),
        (torch.tensor([1, 2]), TypeError, r"values of GroupedRewards are torch\.int64"),
        (torch.ones(2, 1), ValueError, r"values of GroupedRewards have shape \[2, 1\], expected \[2\]"),
        (torch.ones(3), ValueError, r"values of GroupedRewards have shape \[3\], expected \[2\]"),
    ],
)
def test_rewards_that_cannot_be_compared(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GroupedRewards(values, Segments.of_lengths([2]))
