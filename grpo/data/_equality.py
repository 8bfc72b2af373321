"""Whether two actions are the same, whatever they are made of."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def are_equal(one: Any, other: Any) -> bool:
    """Whether two things have the same value: tensors and arrays by their entries, containers by their parts.

    Objects that know no equality are equal to themselves only.

    Example:
        >>> are_equal([torch.tensor([1, 2]), "x"], [torch.tensor([1, 2]), "x"])
        True
    """
    if one is other:
        return True
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(are_equal, one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.device == other.device and torch.equal(one, other)
    if hasattr(one, "tolist") and hasattr(one, "shape"):
        return one.shape == other.shape and bool((one == other).all())
    if is_dataclass(one):
        return all(are_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_equal(one[key], other[key]) for key in one)
    return bool(one == other)
