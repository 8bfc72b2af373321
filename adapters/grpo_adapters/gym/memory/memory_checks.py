"""What a policy's memory must be like, found by asking it for a few steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from grpo import Segments
from grpo_adapters.gym.memory.memory_states import go_over, map_state, rows_of, tensors_of
from grpo_adapters.gym.policies.row_checks import NUM_ROWS, check_rows, inputs_left

EXPECTED = "expected (units [n, U], state) -> (units [n, H], state), where tensors of the state have n rows"
READY_MADE = "LSTM and GRU of grpo_adapters.gym, around those of PyTorch's, are such memories"


def step_of(memory: nn.Module, units: Tensor, state: Any) -> tuple[Tensor, Any]:
    """A step of a memory, whose results are as they must be.

    Raises:
        TypeError: if they are no pair of units and a state.
        ValueError: if it raises, writes over what it is given, or rows are not where they must be.
    """
    name = f"memory {type(memory).__name__}"
    given = [units, *(tensor for _, tensor in tensors_of(state) if isinstance(tensor, Tensor))]
    with inputs_left("memory", memory, given):
        try:
            result = memory(units, state)
        except Exception as error:
            hint = "; give it initial_state(n) if it cannot begin from None" if state is None else ""
            hint = f"; {units.shape[1]} is what the trunk gives, or an observation where there is none{hint}"
            raise ValueError(
                f"{name} cannot take units of shape {list(units.shape)} with the state "
                f"{None if state is None else [list(tensor.shape) for _, tensor in tensors_of(state)]}: "
                f"{type(error).__name__}: {error}{hint}"
            ) from error
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Tensor):
        raise TypeError(f"{name} returned a {type(result).__name__}, {EXPECTED}. {READY_MADE}")
    outputs, state = result
    if outputs.dim() != 2 or len(outputs) != len(units):
        raise ValueError(
            f"{name} returned units of shape {list(outputs.shape)} for {len(units)} observations, {EXPECTED}"
        )
    for place, tensor in tensors_of(state):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} returned a {type(tensor).__name__} as {place}, expected a tensor, or a tuple or dictionary "
                f"of tensors, with a row for each observation"
            )
        if tensor.dim() == 0 or len(tensor) != len(units):
            raise ValueError(
                f"{name} returned {place} of shape {list(tensor.shape)} for {len(units)} observations, expected "
                f"{len(units)} rows: its first dimension must be that of the observations. {READY_MADE}"
            )
    return outputs, state


def beginning_of(memory: nn.Module, num_rows: int, like: Any, device: torch.device | None = None) -> Any:
    """The state of so many episodes that begin: the memory's ``initial_state``, or zeros ``like`` a state, if any.

    Zeros are made on the device, or where ``like`` is.
    """
    own: Any = getattr(memory, "initial_state", None)
    if own is not None:
        return own(num_rows)
    if like is None:
        return None
    return map_state(lambda tensor: tensor.new_zeros((num_rows, *tensor.shape[1:]), device=device), like)


@torch.no_grad()
def check_memory(memory: nn.Module, units: Tensor) -> Any:
    """A memory must give a row the same whatever is beside it, in new states that stay as large as they are.

    Args:
        memory: the memory.
        units: :data:`NUM_ROWS` different rows [n, U].

    Returns:
        What its state is like: one row of zeros.

    Raises:
        TypeError, ValueError: if it does not do so; the message says what was expected.
    """
    name = f"memory {type(memory).__name__}"
    was_training = memory.training
    memory.eval()
    try:
        if hasattr(memory, "initial_state"):
            _check_initial_state(name, memory)
        first = beginning_of(memory, NUM_ROWS, None)
        outputs, state = step_of(memory, units, first)
        if not torch.allclose(step_of(memory, units, first)[0], outputs, rtol=1e-4, atol=1e-5):
            raise ValueError(
                f"{name} gives something else when it is asked the same again: keep nothing in the module from call to "
                f"call, but in the state that it returns"
            )
        like = map_state(lambda tensor: torch.zeros_like(tensor[:1]), state)
        beginning = beginning_of(memory, NUM_ROWS, like)
        again, state = step_of(memory, units, beginning)
        _check_same_kind(name, beginning, state)
        if not torch.allclose(again, outputs, rtol=1e-4, atol=1e-5):
            raise ValueError(
                f"{name} begins otherwise from None than from zeros: give it a method initial_state(n) that returns "
                f"the state of n episodes that begin"
            )
        _check_sequences(name, memory, units, beginning)
    finally:
        memory.train(was_training)

    def two_steps(rows: list[int]) -> list[Tensor]:
        first, state = step_of(memory, units[rows], rows_of(beginning, rows))
        second, state = step_of(memory, units.roll(1, 0)[rows], state)
        return [first, second, *(tensor for _, tensor in tensors_of(state))]

    check_rows("memory", memory, two_steps, "Compute each row from its own units and state alone")
    return like


def _check_initial_state(name: str, memory: Any) -> None:
    """Episodes must begin alike, wherever and whenever they do."""
    expected = "expected the state of n episodes that begin, a tensor, or a tuple or dictionary of tensors, of n rows"
    try:
        alone, together = (dict(tensors_of(memory.initial_state(num_rows))) for num_rows in (1, NUM_ROWS))
    except Exception as error:
        raise TypeError(
            f"{name}.initial_state({NUM_ROWS}) raised {type(error).__name__}: {error}; {expected}"
        ) from error
    for place, tensor in together.items():
        if not isinstance(tensor, Tensor) or tensor.dim() == 0 or len(tensor) != NUM_ROWS:
            came = f"shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else f"type {type(tensor).__name__}"
            raise ValueError(f"{name}.initial_state({NUM_ROWS}) returned {place} of {came}, {expected}")
        if alone.keys() != together.keys() or not torch.equal(alone[place].expand_as(tensor), tensor):
            raise ValueError(
                f"{name}.initial_state gives another {place} in another row or at another time, {expected}, and the "
                f"same in each row, since any episode may begin in any row"
            )


def _check_same_kind(name: str, before: Any, after: Any) -> None:
    """States before and after a step must differ in their numbers only."""
    kinds = [
        [(place, list(tensor.shape[1:]), tensor.dtype) for place, tensor in tensors_of(state)]
        for state in (before, after)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{name} has a state that changes its kind: its rows are {kinds[0]} before a step and {kinds[1]} after it. "
            f"Keep its shape, as StackedUnits keeps the last steps only"
        )


def _check_sequences(name: str, memory: nn.Module, units: Tensor, beginning: Any) -> None:
    """``over_sequences``, where there is one, must give what single steps give."""
    if not hasattr(memory, "over_sequences"):
        return
    sequences = Segments.of_lengths([1, 3], units.device)
    state = rows_of(step_of(memory, units, beginning)[1], slice(2))
    whole = go_over(memory, units, sequences, state)
    single = go_over(memory.forward, units, sequences, state)
    pairs = [
        (whole[0], single[0]),
        *zip(*([t for _, t in tensors_of(part[1])] for part in (whole, single)), strict=True),
    ]
    if not all(own.shape == other.shape and torch.allclose(own, other, rtol=1e-3, atol=1e-5) for own, other in pairs):
        raise ValueError(
            f"{name}.over_sequences gives something else than its single steps: leave it out, and steps are taken one "
            f"by one, or compare the two"
        )
