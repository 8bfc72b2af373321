"""States as plain data, which is read without running code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.data._protocols import type_name
from grpo.distributed.parts import is_sharded

ARRAY, BYTES, SHARED = "__array__", "__bytes__", "__shared__"
"""The only name in a dictionary that stands for an array of NumPy's, bytes, or a tensor that processes store once."""
RESERVED = (ARRAY, BYTES, SHARED)
ATOMS = (type(None), bool, float, complex, str, torch.dtype, torch.device, torch.Size)
LONGEST_INTEGER = 255 * 8 - 1  # bits, of what PyTorch reads back


def to_plain(value: Any, path: str = "state") -> Any:
    """The same of tensors, numbers, texts, lists, tuples and dictionaries; arrays as the tensors of their bytes.

    Raises:
        TypeError: if there is anything else in it; the message names where.
    """
    if type(value) in ATOMS or (type(value) is int and value.bit_length() <= LONGEST_INTEGER):
        return value
    if isinstance(value, Tensor) and (type(value.detach()) is Tensor or is_sharded(value)):
        return value.detach()
    if isinstance(value, Mapping):
        if not all(type(name) in (str, int, bool) and name not in RESERVED for name in value):
            raise TypeError(
                f"{path} has the names {list(value)[:5]}, expected texts and integers, and none of {RESERVED}"
            )
        return {name: to_plain(part, f"{path}.{name}") for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_plain(part, f"{path}.{index}") for index, part in enumerate(value))
    if type(value) is bytes:
        return {BYTES: _as_tensor(value)}
    if _is_plain_array(value):
        return {ARRAY: _array_to_plain(value)}
    raise TypeError(
        f"{path} is {_described(value)}, which cannot be saved without running code when it is loaded: let state_dict "
        f"tell numbers, texts, tensors, arrays, lists and dictionaries of them"
    )


def from_plain(value: Any) -> Any:
    """What :func:`to_plain` was given."""
    if type(value) is dict:
        if ARRAY in value:
            return _array_from_plain(*value[ARRAY])
        if BYTES in value:
            return _as_bytes(value[BYTES])
        return {name: from_plain(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(from_plain(part) for part in value)
    return value


def _is_plain_array(value: Any) -> bool:
    """Whether it is an array or a scalar of NumPy's, of a type that its name tells all of."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return False
    is_scalar = isinstance(value, numpy.generic) and not isinstance(value, numpy.character)
    if not is_scalar and type(value) is not numpy.ndarray:
        return False
    dtype = value.dtype
    return not dtype.hasobject and dtype.itemsize > 0 and bool(numpy.dtype(dtype.str) == dtype)


def _array_to_plain(value: Any) -> list[Any]:
    """Type, shape, the order of the axes in memory, bytes, and whether it is a scalar."""
    numpy = sys.modules["numpy"]
    array = numpy.asarray(value)
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    content = _as_tensor(array.transpose(axes).tobytes())
    return [array.dtype.str, list(array.shape), axes, content, isinstance(value, numpy.generic)]


def _array_from_plain(dtype: str, shape: list[int], axes: list[int], content: Tensor, is_scalar: bool) -> Any:
    import numpy

    array = numpy.frombuffer(_as_bytes(content), dtype=numpy.dtype(dtype)).copy()
    if is_scalar:
        return array[0]
    return array.reshape([shape[axis] for axis in axes]).transpose(numpy.argsort(axes))


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _as_bytes(content: Tensor) -> bytes:
    return bytes(content.numpy())


def _described(value: Any) -> str:
    if type(value) is int:
        return f"an integer of {value.bit_length()} bits"
    dtype = getattr(value, "dtype", None)
    return f"a {type_name(value)}" + ("" if dtype is None else f" of {dtype}")
