"""Tensors of which each of several processes holds a part."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.distributed.parts import is_sharded


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


def sharded_of(trainer: Any) -> dict[str, Tensor]:
    """Those of a trainer, by their places in a run's state, and of what is optimized by those of its moments."""
    state = {"trainer": trainer.state_dict()}
    held = (
        [tensor for group in trainer.optimizer.param_groups for tensor in group["params"]] if trainer.optimizer else []
    )
    moments = {"trainer": {"optimizer": {"state": dict(enumerate(held))}}}
    return sharded_in(moments) | sharded_in(state)


def like(place: str, shape: torch.Size, sharded: Mapping[str, Tensor]) -> Tensor | None:
    """The sharded tensor of that shape at a place, or at the one that it is in; None where there is none."""
    for outer in (place, place.rpartition("[")[0]):
        if outer in sharded and sharded[outer].shape == shape:
            return sharded[outer]
    return None


def in_parts(value: Any, sharded: Mapping[str, Tensor], place: str = "") -> Any:
    """The same, in which this process holds its parts of tensors that it is to hold only parts of."""
    if isinstance(value, Tensor):
        own: Any = like(place, value.shape, sharded)
        if own is None or is_sharded(value):
            return value
        distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
        return distribute(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
    if isinstance(value, Mapping):
        return {name: in_parts(part, sharded, f"{place}[{name!r}]") for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(in_parts(part, sharded, f"{place}[{index}]") for index, part in enumerate(value))
    return value
