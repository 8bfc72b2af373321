"""Memories by themselves: whole sequences are their single steps, and states are what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrence import MEMORIES, DecayingSum
from torch import Tensor, nn

from grpo import Segments
from grpo_adapters.gym import GRU, LSTM, StackedUnits, WindowTransformer
from grpo_adapters.gym.memory.memory_checks import beginning_of
from grpo_adapters.gym.memory.memory_states import go_over, map_state, rows_of, tensors_of


def random_state(memory: nn.Module, num_rows: int) -> Any:
    """The state after two steps, those of the first row of an episode that has just begun."""
    units = torch.randn(2, num_rows, 4, dtype=torch.float64)
    like = memory(units[0, :1], memory.initial_state(1) if isinstance(memory, DecayingSum) else None)[1]
    beginning = beginning_of(memory, num_rows, like)
    state = memory(units[1], memory(units[0], beginning)[1])[1]
    return map_state(lambda fresh, own: torch.cat((fresh[:1], own[1:])), beginning, state)


@pytest.mark.parametrize("memory", MEMORIES)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_whole_sequences_are_their_single_steps(memory: str, lengths: list[int]) -> None:
    torch.manual_seed(0)
    module = MEMORIES[memory]().double()
    units = torch.randn(sum(lengths), 4, dtype=torch.float64)
    state = random_state(module, len(lengths))
    outputs, last = go_over(module, units, Segments.of_lengths(lengths), state)
    for index, own in enumerate(units.split(lengths)):
        after = rows_of(state, slice(index, index + 1))
        for step, unit in enumerate(own):
            output, after = module(unit[None], after)
            torch.testing.assert_close(outputs[sum(lengths[:index]) + step], output[0])
        for (_, found), (_, expected) in zip(tensors_of(last), tensors_of(after), strict=True):
            torch.testing.assert_close(found[index], expected[0])


@pytest.mark.parametrize(("kind", "plain"), [(LSTM, nn.LSTM), (GRU, nn.GRU)])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_layers_of_pytorch(kind: Any, plain: Any, num_layers: int) -> None:
    memory = kind(3, 5, num_layers=num_layers)
    assert isinstance(memory.layers, plain)
    units = torch.randn(7, 2, 3)
    expected, _ = memory.layers(units)
    state = None
    for step, own in enumerate(units):
        output, state = memory(own, state)
        torch.testing.assert_close(output, expected[step])
    for name, parameter in memory.named_parameters():
        if "bias" in name:
            assert not parameter.any()
        else:
            torch.testing.assert_close(parameter.T @ parameter, torch.eye(parameter.shape[1]))


def test_stacked_units_by_hand() -> None:
    memory = StackedUnits(3)
    first, state = memory(torch.tensor([[1.0]]))
    second, state = memory(torch.tensor([[2.0]]), state)
    assert state[0].tolist() == [[[1.0], [2.0]]]
    assert state[1].tolist() == [[True, True]]
    third, _ = memory(torch.tensor([[3.0]]), state)
    fourth, state = memory(torch.tensor([[4.0]]), memory(torch.tensor([[3.0]]), state)[1])
    assert [units.tolist() for units in (first, second, third, fourth)] == [
        [[0.0, 0.0, 1.0]],
        [[0.0, 1.0, 2.0]],
        [[1.0, 2.0, 3.0]],
        [[2.0, 3.0, 4.0]],
    ]


def after(memory: nn.Module, units: Tensor) -> Tensor:
    """What a memory gives at the last of some steps."""
    state = None
    for own in units:
        output, state = memory(own[None], state)
    result: Tensor = output
    return result


def test_a_transformer_sees_the_last_steps_with_their_ages_and_no_others() -> None:
    torch.manual_seed(0)
    memory = WindowTransformer(2, 8, length=3, num_layers=2, num_heads=2)
    units = torch.randn(5, 2)
    whole = after(memory, units)
    torch.testing.assert_close(after(memory, torch.cat((torch.randn(2, 2), units[2:]))), whole)
    for changed in (2, 3, 4):
        other = units.clone()
        other[changed] += 1
        assert (after(memory, other) - whole).abs().max() > 1e-3
    assert (after(memory, units[[0, 1, 3, 2, 4]]) - whole).abs().max() > 1e-3


def test_a_transformer_tells_zeros_from_steps_that_were_not() -> None:
    memory = WindowTransformer(2, 8, length=3)
    begins, goes_on = after(memory, torch.zeros(1, 2)), after(memory, torch.zeros(2, 2))
    assert (begins - goes_on).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StackedUnits(1), "length is 1, expected an integer of at least 2 steps"),
        (lambda: WindowTransformer(2, 6, length=3), "num_units is 6, expected a multiple of num_heads, which is 4"),
    ],
)
def test_bad_sizes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
