"""Checks of batches that a user's code gives.

They are states, or actions in groups. Each error names what was expected, what came, and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.data._protocols import type_name
from grpo.data.batches import EqualGroups


def check_states(states: Any, name: str = "states", *, reads_by_index: bool = True) -> None:
    """States must be a batch with at least one entry."""
    expected = "a batch: a list with an entry for each, or a tensor whose first dimension counts them"
    if isinstance(states, Mapping) and states and all(isinstance(column, list) for column in states.values()):
        expected += "; these are columns: give rows, of a table list(table.select(range(2))) and not table[:2]"
    require_batch(states, f"{name} is", expected, reads_by_index=reads_by_index)
    if len(states) == 0:
        raise ValueError(f"{name} is empty, expected at least one entry: there is nothing to learn from")


def check_groups(what: str, groups: Any, num_states: int, num_actions_per_state: int | None) -> None:
    """There must be one group for each state, of the number of actions asked for, or of one at least for None."""
    size = "one or more" if num_actions_per_state is None else str(num_actions_per_state)
    if isinstance(groups, EqualGroups) and num_actions_per_state in (None, groups.size) and len(groups) == num_states:
        return
    if isinstance(groups, Tensor) and num_actions_per_state is not None:
        require_strided(what, groups)
        if groups.shape[:2] != (num_states, num_actions_per_state):
            raise ValueError(
                f"{what} a tensor of shape {list(groups.shape)}, expected [{num_states}, {size}, ...]: "
                f"num_actions_per_state actions for each state"
            )
        return
    require_batch(groups, what, "one sequence of actions for each state")
    if len(groups) != num_states:
        raise ValueError(f"{what} {len(groups)} groups, expected {num_states}: one group of actions for each state")
    for index, group in enumerate(groups):
        if type(group) is not list:
            require_batch(
                group,
                what,
                f"a sequence of {size} actions: nest the actions of a state in a list",
                where=f" for state {index}",
            )
        if len(group) != num_actions_per_state and (num_actions_per_state is not None or len(group) == 0):
            fix = "" if num_actions_per_state is None else ": sample as many as num_actions_per_state asks for"
            raise ValueError(f"{what} {len(group)} actions for state {index}, expected {size}{fix}")


def require_batch(value: Any, what: str, expected: str, where: str = "", *, reads_by_index: bool = True) -> None:
    """Raise a TypeError unless the value has a length and, where that matters, the same entries by index as in turn."""
    if type(value) in (list, tuple):
        return
    if isinstance(value, Tensor):
        require_strided(what, value)
    if getattr(value, "shape", None) == ():
        raise TypeError(f"{what} a 0-dimensional {type_name(value)}{where}, expected {expected}. Put it in a list")
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise TypeError(f"{what} a {type_name(value)}{where}, expected {expected}")
    if reads_by_index and not isinstance(value, Tensor) and not _agrees_with_itself(value):
        records = (
            ", for instance by .to_dict('records')" if hasattr(value, "columns") else ", by list(...) or .tolist()"
        )
        raise TypeError(
            f"{what} a {type_name(value)}{where}, whose entries by index are not those of an iteration, expected "
            f"{expected}. Make a list of its entries{records}"
        )


def _agrees_with_itself(batch: Any) -> bool:
    """Whether the first entry is of the same kind by iteration and by index: tables iterate over their columns.

    Columns of tables read by label: theirs must count them.
    """
    if hasattr(batch, "iloc") and list(batch.index) != list(range(len(batch))):
        return False
    try:
        if len(batch) == 0:
            return True
        first = next(iter(batch), None)
        return type(batch[0]) is type(first) or bool(batch[0] == first)
    except (KeyError, IndexError, TypeError, ValueError):
        return False


def irregularity(values: Tensor) -> str | None:
    """Why a tensor cannot be indexed and cut as a dense one can: it is "nested" or "sparse"; None for a dense one."""
    if values.is_nested:
        return "nested"
    return None if values.layout is torch.strided else "sparse"


def require_strided(what: str, values: Tensor) -> None:
    """Raise a TypeError where a tensor is sparse or nested: the core indexes and cuts dense ones."""
    kind = irregularity(values)
    if kind is not None:
        fix = "take the parts, values.unbind(), in a list" if values.is_nested else "call .to_dense() on it"
        raise TypeError(f"{what} a {kind} tensor, expected a dense one: {fix}")


def require_positive_integer(value: Any, name: str, meaning: str) -> None:
    """Raise a ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least 1: {meaning}")
