"""Takes the state of an object as plain data, with all that it reaches."""

from __future__ import annotations

import enum
import functools
import types
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv
from torch import Tensor, nn

from grpo_adapters.gym.plain_state.kinds import (
    MAPPINGS,
    SEQUENCES,
    attributes_of,
    class_name,
    describe,
    is_constant,
    is_emulator,
    is_environment,
    is_plain_object,
    spaces_within,
    tells_its_state,
)
from grpo_adapters.gym.plain_state.leaves import (
    VALUES,
    array_data,
    emulator_data,
    generator_data,
    is_atom,
    repeats_actions,
)


class NotPlainError(TypeError):
    """An object holds what cannot be taken as plain data; the message says where, what and why."""


def take_state(value: Any, left_alone: tuple[type, ...] = ()) -> dict[str, Any]:
    """The state of ``value`` as plain data.

    Args:
        value: any object.
        left_alone: classes whose instances are left as they are wherever they are held.

    Returns:
        ``{"nodes": [...], "root": ...}``, which shares no memory with the object.

    Raises:
        NotPlainError: if something in it cannot be taken.
    """
    taker = Taker(left_alone)
    try:
        root = taker.take(value, type(value).__name__)
    except RecursionError:
        raise NotPlainError(f"{type(value).__name__} holds objects that hold each other too deeply") from None
    taker.check_memory()
    return {"nodes": taker.nodes, "root": root}


class Taker:
    """Gathers the nodes of what an object reaches.

    Attributes:
        nodes: one for each object.
        objects: the objects of the nodes.
    """

    def __init__(self, left_alone: tuple[type, ...]) -> None:
        self.left_alone = left_alone
        self.nodes: list[dict[str, Any]] = []
        self.objects: list[Any] = []
        self._indices: dict[int, int] = {}
        self._memory: list[tuple[int, int, str, bool]] = []
        self._environment = ""

    def take(self, value: Any, place: str) -> Any:
        """Plain data for a value: itself, or where its node is; ``place`` says how it is reached."""
        if is_atom(value):
            return value
        index = self._indices.get(id(value))
        if index is None:
            index = len(self.nodes)
            self._indices[id(value)] = index
            self.objects.append(value)
            self.nodes.append({})
            self.nodes[index] = {"class": class_name(type(value)), **self._node(value, place)}
        elif not self.nodes[index] and isinstance(value, tuple | frozenset):
            raise self._refusal(place, f"is a {type(value).__name__} that holds itself")
        return {"ref": index}

    def check_memory(self) -> None:
        """Arrays and tensors that share memory in a way which would be lost must not be."""
        last_end, last_place, last_in_place = 0, "", False
        for start, end, place, is_changed_in_place in sorted(self._memory):
            if start < last_end and not (is_changed_in_place and last_in_place):
                raise self._refusal(place, f"shares memory with {last_place} in a way that would be lost")
            if end > last_end:
                last_end, last_place, last_in_place = end, place, is_changed_in_place

    def _refusal(self, place: str, reason: str) -> NotPlainError:
        return NotPlainError(f"in {self._environment}, {place} {reason}" if self._environment else f"{place} {reason}")

    def _node(self, value: Any, place: str) -> dict[str, Any]:
        if isinstance(value, self.left_alone) or is_constant(value):
            return {"kind": "constant", "name": describe(value)}
        if isinstance(value, enum.Enum):
            return {"kind": "enum", "value": self.take(value.value, f"{place}.value")}
        if isinstance(value, np.ndarray | np.generic | Tensor):
            return self._numbers(value, place)
        generator = generator_data(value)
        if generator is not None:
            parts = {name: self.take(part, place) for name, part in generator.items()}
            return {"kind": "generator", "parts": parts}
        if type(value) in VALUES:
            plain = VALUES[type(value)][0](value)
            return {"kind": "value", "class": type(value).__name__, "plain": self.take(plain, place)}
        if isinstance(value, gymnasium.Space):
            generators = self.take(vars(value).get("_np_random"), f"{place}._np_random")
            inner = [self.take(part, place) for part in spaces_within(value)]
            return {"kind": "space", "name": describe(value), "generator": generators, "inner": inner}
        return self._callable(value, place) or self._container(value, place) or self._object(value, place)

    def _numbers(self, value: Any, place: str) -> dict[str, Any]:
        is_known = isinstance(value, np.generic) or type(value) in (np.ndarray, Tensor, nn.Parameter)
        if not is_known or getattr(value.dtype, "names", None) is not None:
            raise self._refusal(place, f"is a {type(value).__name__} of dtype {value.dtype}")
        if isinstance(value, np.generic):
            return {"kind": "scalar", **array_data(np.asarray(value))}
        if isinstance(value, Tensor):
            if value.layout != torch.strided or not value.is_leaf:
                raise self._refusal(place, "is a tensor which is sparse, or which gradients flow back from")
            storage = value.untyped_storage()
            start, is_parameter = storage.data_ptr(), isinstance(value, nn.Parameter)
            self._memory.append((start, start + storage.nbytes(), place, is_parameter))
            return {"kind": "tensor", "data": value.detach().clone(), "requires_grad": value.requires_grad}
        owner = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        is_view = owner is not value and owner.dtype == value.dtype and not value.dtype.hasobject
        if is_view and owner.flags.c_contiguous:
            offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            view = {"offset": offset, "shape": list(value.shape), "strides": list(value.strides)}
            return {"kind": "view", **view, "of": self.take(owner, place)}
        self._memory.append((*np.lib.array_utils.byte_bounds(value), place, False))
        if value.dtype.hasobject:
            items = [self.take(item, f"{place}.flat[{i}]") for i, item in enumerate(value.flat)]
            return {"kind": "objects", "shape": list(value.shape), "items": items}
        return {"kind": "array", **array_data(value)}

    def _callable(self, value: Any, place: str) -> dict[str, Any] | None:
        if isinstance(value, types.MethodType | types.BuiltinFunctionType):
            return {"kind": "method", "name": value.__name__, "of": self.take(value.__self__, f"{place}.__self__")}
        if type(value) is functools.partial:
            parts = {name: getattr(value, name) for name in ("func", "args", "keywords")}
            return {"kind": "partial", "parts": {name: self.take(part, place) for name, part in parts.items()}}
        if type(value) is weakref.ref and value.__callback__ is None:
            return {"kind": "weakref", "to": self.take(value(), place)}
        return None

    def _container(self, value: Any, place: str) -> dict[str, Any] | None:
        base: Any = next((base for base in type(value).__mro__ if base in SEQUENCES + MAPPINGS), None)
        if base is None or tells_its_state(value):
            return None
        node: dict[str, Any] = {"kind": "container", "base": base.__name__}
        if base in SEQUENCES:
            items: Sequence[Any] = list(base.__iter__(value))
            node["items"] = [self.take(item, f"{place}[{position}]") for position, item in enumerate(items)]
        else:
            pairs = list(base.items(value))
            node["items"] = [[self.take(key, place), self.take(item, f"{place}[{key!r}]")] for key, item in pairs]
        if base is deque:
            node["maxlen"] = value.maxlen
        if base is defaultdict:
            node["factory"] = self.take(value.default_factory, f"{place}.default_factory")
        if type(value) is not base and attributes_of(value):
            node["attributes"] = self._attributes(value, place)
        return node

    def _object(self, value: Any, place: str) -> dict[str, Any]:
        kind = type(value)
        if is_environment(value):
            self._environment = kind.__name__
        if tells_its_state(value):
            return {"kind": "own", "state": self.take(value.state_dict(), f"{place}.state_dict()")}
        if isinstance(value, AsyncVectorEnv):
            raise self._refusal(place, "runs its environments in other processes")
        if is_emulator(value):
            if repeats_actions(value):
                raise self._refusal(place, "repeats actions at random, and does not tell which was the last")
            return {"kind": "emulator", **emulator_data(value)}
        if not is_plain_object(kind):
            raise self._refusal(place, f"is a {kind.__name__}, which is more than attributes in Python")
        return {"kind": "object", "attributes": self._attributes(value, place)}

    def _attributes(self, value: Any, place: str) -> dict[str, Any]:
        around = self._environment
        attributes = {name: self.take(part, f"{place}.{name}") for name, part in attributes_of(value).items()}
        self._environment = around
        return attributes
