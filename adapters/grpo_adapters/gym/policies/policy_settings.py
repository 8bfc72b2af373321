"""Checks of the settings that a policy is constructed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from grpo_adapters.gym.environments.checks import is_integer


def check_hidden_sizes(sizes: Any) -> None:
    """The sizes of hidden layers must be numbers of units, None for those by default.

    Raises:
        TypeError: if they are no sequence of integers.
        ValueError: if a layer has no unit.
    """
    if sizes is None:
        return
    is_sequence = isinstance(sizes, Sequence) and not isinstance(sizes, str)
    if not is_sequence or not all(map(is_integer, sizes)):
        raise TypeError(
            f"hidden_sizes is {sizes!r}, expected a sequence with the units of each hidden layer, such as (64, 64)"
        )
    if any(size < 1 for size in sizes):
        raise ValueError(f"hidden_sizes is {sizes!r}, expected at least 1 unit in each hidden layer: () has no layers")


def check_normalization_and_seed(normalize_observations: Any, seed: Any) -> None:
    """What merely counts as true is not taken for it, and a seed must be a number.

    Raises:
        TypeError: if one is of another type.
    """
    if not isinstance(normalize_observations, bool | np.bool_):
        raise TypeError(f"normalize_observations is {normalize_observations!r}, expected True or False")
    if not is_integer(seed):
        raise TypeError(f"seed is {seed!r}, expected an integer")


def check_window(memory: nn.Module | None, window: int | None, burn_in: int) -> None:
    """A window and its burn-in must be numbers of steps, and there must be a memory that goes over them.

    Raises:
        TypeError: if one is no integer.
        ValueError: if there is no memory, or one is out of range.
    """
    for name, value in (("window", window), ("burn_in", burn_in)):
        if value is not None and type(value) is not int:
            raise TypeError(f"{name} is {value!r}, expected a whole number of steps")
    if memory is None and (window is not None or burn_in != 0):
        raise ValueError(
            f"window is {window} and burn_in {burn_in}, but there is no memory: pass memory=LSTM(...), say"
        )
    if window is not None and window < 1:
        raise ValueError(f"window is {window}, expected at least 1: steps of a row, or None for whole trajectories")
    if burn_in < 0 or (burn_in > 0 and (window is None or burn_in >= window)):
        raise ValueError(
            f"burn_in is {burn_in} and window {window}, expected fewer steps of burn-in than of a window, at least 0"
        )
