"""Whether states, actions or tensors are still what they were."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


class Identity(str):
    """Stands for something that is known by its identity alone: all of them are equal, so nothing is said of them."""


def value_of(thing: Any) -> Hashable:
    """A value that two equal things share: of tensors and arrays all their entries, of lists, tuples and dataclasses
    their parts'.

    Example:
        >>> import torch
        >>> value_of([torch.tensor([1, 2]), "x"]) == value_of((torch.tensor([1, 2]), "x"))
        True
    """
    if thing is None:
        return None
    if hasattr(thing, "tolist"):
        return str(thing.tolist())
    if is_dataclass(thing) and not isinstance(thing, type):
        thing = tuple(getattr(thing, field.name) for field in fields(thing))
    if isinstance(thing, list | tuple):
        values = [value_of(part) for part in thing]
        return Identity() if any(isinstance(value, Identity) for value in values) else tuple(values)
    hash_by_identity: object = object.__hash__
    if type(thing).__hash__ is hash_by_identity:
        return Identity()
    return thing if isinstance(thing, Hashable) else repr(thing)


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether any tensor has another value; NaN is the same as NaN."""
    pairs = [(tensor, after[name]) for name, tensor in before.items() if name in after]
    return any(
        tensor.shape != now.shape or not ((tensor == now) | tensor.isnan() & now.isnan()).all() for tensor, now in pairs
    )
