"""Tensors of which each of several processes holds a part."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

TensorsByName = Mapping[str, Tensor]


def is_sharded(value: object) -> bool:
    """Whether it is a DTensor of PyTorch's, which nobody has who has not imported them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def whole(value: Any) -> Any:
    """The same with whole tensors; all processes that hold parts of them call this together."""
    if is_sharded(value):
        return value.detach().full_tensor()
    if isinstance(value, Mapping):
        return {name: whole(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(whole(part) for part in value)
    return value


def tensors_in(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each tensor in dictionaries, lists and tuples, with its place."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from tensors_in(part, f"{place}[{name!r}]")
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            yield from tensors_in(part, f"{place}[{index}]")


def sharded_in(value: Any) -> dict[str, Tensor]:
    """Those of which this process holds a part, by their places."""
    return {place: tensor for place, tensor in tensors_in(value) if is_sharded(tensor)}
