"""States as plain data, which is read without running code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.data._protocols import type_name

ARRAY = "__array__"
"""The only name in a dictionary that stands for an array of NumPy's."""
ATOMS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)


def to_plain(value: Any, path: str = "state") -> Any:
    """The same of tensors, numbers, texts, lists, tuples and dictionaries; arrays as the tensors of their bytes.

    Raises:
        TypeError: if there is anything else in it; the message names where.
    """
    if type(value) in ATOMS:
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        if ARRAY in value or not all(isinstance(name, str | int) for name in value):
            raise TypeError(f"{path} has the names {list(value)[:5]}, expected texts and integers, and not {ARRAY!r}")
        return {name: to_plain(part, f"{path}.{name}") for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_plain(part, f"{path}.{index}") for index, part in enumerate(value))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and not value.dtype.hasobject:
        array = numpy.ascontiguousarray(value)
        content = torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8) if array.size else torch.empty(0)
        return {ARRAY: [value.dtype.str, list(value.shape), content, isinstance(value, numpy.generic)]}
    raise TypeError(
        f"{path} is a {type_name(value)}, which cannot be saved without running code when it is loaded: let state_dict "
        f"tell numbers, texts, tensors, arrays, lists and dictionaries of them"
    )


def from_plain(value: Any) -> Any:
    """What :func:`to_plain` was given."""
    if type(value) is dict:
        if ARRAY in value:
            return _array_of(*value[ARRAY])
        return {name: from_plain(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(from_plain(part) for part in value)
    return value


def _array_of(dtype: str, shape: list[int], content: Tensor, is_scalar: bool) -> Any:
    import numpy

    array = numpy.frombuffer(content.numpy().tobytes(), dtype=numpy.dtype(dtype)).reshape(shape).copy()
    return array[()] if is_scalar else array
