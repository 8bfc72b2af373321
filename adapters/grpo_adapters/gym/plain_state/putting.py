"""Puts a state that was taken as plain data into an object that was constructed in the same way."""

from __future__ import annotations

import contextlib
import copy
import enum
import functools
import inspect
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

from grpo_adapters.gym.plain_state.kinds import (
    KNOWN_CONSTANTS,
    MAPPINGS,
    SEQUENCES,
    attributes_of,
    class_name,
    describe,
    has_own_equality,
    is_constant,
    is_environment,
    is_plain_object,
    set_attributes,
    spaces_within,
    tells_its_state,
)
from grpo_adapters.gym.plain_state.leaves import VALUES, array_from, is_atom, put_emulator, put_generator
from grpo_adapters.gym.plain_state.taking import NotPlainError, Taker

BASES: dict[str, Any] = {base.__name__: base for base in SEQUENCES + MAPPINGS}
VALUES_BY_NAME = {kind.__name__: back for kind, (_, back) in VALUES.items()}


def put_state(state: dict[str, Any], target: Any, left_alone: tuple[type, ...] = ()) -> None:
    """Let ``target``, which stays the same object, go on from what :func:`take_state` returned of another.

    Nothing is imported, and no constructor is called: an object that the target has nothing like is made of a class
    that the target's own classes are defined beside.

    Args:
        state: what was taken.
        target: an object that was constructed in the same way.
        left_alone: as for :func:`take_state`.

    Raises:
        ValueError: if the state is not one of such an object; the target has then not changed.
        RuntimeError: if an object did not take back the state that it told.
    """
    putter = _Putter(state["nodes"], target, left_alone)
    try:
        root = putter.put(state["root"], target)
    except (KeyError, IndexError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"the state cannot be read ({type(error).__name__}: {error})") from error
    if root is not target:
        raise ValueError(f"the state is not one of a {type(target).__name__}")
    try:
        for change in putter.changes:
            change()
    except Exception as error:
        raise RuntimeError(
            f"a {type(target).__name__} took only a part of the state ({type(error).__name__}: {error}): make it anew"
        ) from error


class _Putter:
    """Finds or makes the object of each node; what changes objects that there are is kept for later."""

    def __init__(self, nodes: list[dict[str, Any]], target: Any, left_alone: tuple[type, ...]) -> None:
        self.nodes = nodes
        self.values: dict[int, Any] = {}
        self.changes: list[Callable[[], Any]] = []
        self._claimed: set[int] = set()
        self._constants: dict[str, Any] = {describe(constant): constant for constant in KNOWN_CONSTANTS}
        self._classes: dict[str, type] = {}
        taker = Taker(left_alone)
        with contextlib.suppress(NotPlainError, RecursionError):  # then only what was reached before is known
            taker.take(target, "")
        self._reached = taker.objects  # holds them, so that what is claimed stays alive
        for value in taker.objects:
            self._classes[class_name(type(value))] = type(value)
            if is_constant(value) or isinstance(value, (gymnasium.Space, *left_alone)):
                self._constants.setdefault(describe(value), value)
        packages = {name.partition(":")[0].partition(".")[0] for name in self._classes}
        self._packages = packages - set(sys.stdlib_module_names) - {"torch", "numpy"} | {"__main__"}

    def put(self, data: Any, target: Any) -> Any:
        """The value of data, in place of ``target``, which is what there is now, or None."""
        if is_atom(data):
            return data
        index = data["ref"]
        if index not in self.values:
            node = self.nodes[index]
            if id(target) in self._claimed:
                target = None
            kinds: dict[str, Callable[[int, Any, Any], Any]] = {
                "container": self._container,
                "object": self._object,
                "own": self._own,
                "emulator": self._emulator,
                "tensor": self._tensor,
                "generator": self._generator,
                "space": self._space,
                "constant": self._constant,
            }
            make = kinds.get(node["kind"])
            self.values[index] = self._simple(node, target) if make is None else make(index, node, target)
        return self.values[index]

    def _simple(self, node: dict[str, Any], target: Any) -> Any:
        """What is never changed in place."""
        kind = node["kind"]
        if kind == "array":
            return array_from(node)
        if kind == "scalar":
            return array_from(node)[()]
        if kind == "view":
            base = self.put(node["of"], None)
            return np.ndarray(tuple(node["shape"]), base.dtype, base, node["offset"], tuple(node["strides"]))
        if kind == "objects":
            now = list(target.flat) if isinstance(target, np.ndarray) else []
            array = np.empty(len(node["items"]), dtype=object)
            for position, item in enumerate(self._items(node["items"], now)):
                array[position] = item
            return array.reshape(node["shape"])
        if kind == "enum":
            return self._enum_member(node, target)
        if kind == "value":
            return VALUES_BY_NAME[node["class"]](self.put(node["plain"], None))
        if kind == "method":
            return self._method(node, target)
        if kind == "partial":
            parts = {name: self.put(data, getattr(target, name, None)) for name, data in node["parts"].items()}
            return functools.partial(parts["func"], *parts["args"], **parts["keywords"])
        if kind == "weakref":
            return weakref.ref(self.put(node["to"], target() if isinstance(target, weakref.ref) else None))
        raise ValueError(f"the state holds a {kind!r}, which is unknown")

    def _enum_member(self, node: dict[str, Any], target: Any) -> Any:
        members, value = self._class_of(node, target), self.put(node["value"], getattr(target, "value", None))
        if not issubclass(members, enum.Enum):
            raise ValueError(f"{members.__name__} is no Enum")
        return members(value)

    def _method(self, node: dict[str, Any], target: Any) -> Any:
        owner = self.put(node["of"], getattr(target, "__self__", None))
        function = inspect.getattr_static(type(owner), node["name"])
        if not callable(function):
            raise ValueError(f"{node['name']} is no method of {type(owner).__name__}")
        return function.__get__(owner)

    def _items(self, items: list[Any], now: list[Any]) -> list[Any]:
        padded = now[: len(items)] + [None] * (len(items) - len(now))
        return [self.put(item, part) for item, part in zip(items, padded, strict=True)]

    def _container(self, index: int, node: dict[str, Any], target: Any) -> Any:
        """A new one, filled with new values and with objects that there are."""
        base, kind = BASES[node["base"]], self._class_of(node, target)
        is_like = isinstance(target, base)
        if base in (tuple, frozenset):
            return base.__new__(kind, self._items(node["items"], list(target) if is_like and base is tuple else []))
        value = self.values[index] = base.__new__(kind)
        now: Any = target if is_like else base()
        if issubclass(base, dict):
            if "factory" in node:
                value.default_factory = self.put(node["factory"], getattr(now, "default_factory", None))
            for key_data, data in node["items"]:
                key = self.put(key_data, None)
                base.__setitem__(value, key, self.put(data, dict.get(now, key)))
        else:
            if "maxlen" in node:
                base.__init__(value, (), node["maxlen"])
            items = self._items(node["items"], list(now) if base is not set else [])
            (base.update if base is set else base.extend)(value, items)
        if "attributes" in node:
            set_attributes(value, self._attributes(node, target))
        return value

    def _object(self, index: int, node: dict[str, Any], target: Any) -> Any:
        kind = self._class_of(node, target)
        if type(target) is kind and (not has_own_equality(kind) or is_environment(target)):
            self._claimed.add(id(target))
            value = self.values[index] = target
            attributes = self._attributes(node, target)
            self.changes.append(lambda: set_attributes(value, attributes))
            return value
        if not is_plain_object(kind) or hasattr(kind, "__del__"):
            raise ValueError(f"a {kind.__name__} cannot be made anew")
        base: Any = types.SimpleNamespace if issubclass(kind, types.SimpleNamespace) else object
        value = self.values[index] = base.__new__(kind)
        set_attributes(value, self._attributes(node, target if type(target) is kind else None))
        return value

    def _attributes(self, node: dict[str, Any], target: Any) -> dict[str, Any]:
        now = {} if target is None else attributes_of(target)
        return {name: self.put(data, now.get(name)) for name, data in node["attributes"].items()}

    def _own(self, index: int, node: dict[str, Any], target: Any) -> Any:
        if target is None or class_name(type(target)) != node["class"] or not tells_its_state(target):
            raise ValueError(f"there is no {node['class']} to take back the state that it told")
        self._claimed.add(id(target))
        self.values[index] = target
        state = self.put(node["state"], None)
        self.changes.insert(0, lambda: target.load_state_dict(state))
        return target

    def _emulator(self, index: int, node: dict[str, Any], target: Any) -> Any:
        if target is None or class_name(type(target)) != node["class"]:
            raise ValueError(f"there is no {node['class']} to go on with the game {node['game']}")
        self._claimed.add(id(target))
        self.changes.append(put_emulator(node, target))
        return target

    def _tensor(self, index: int, node: dict[str, Any], target: Any) -> Any:
        data, is_parameter = node["data"].detach().clone(), node["class"] == class_name(nn.Parameter)
        if is_parameter and type(target) is nn.Parameter and target.shape == data.shape and target.dtype == data.dtype:
            self._claimed.add(id(target))
            self.changes.append(lambda: _copy_into(target, data, node["requires_grad"]))
            return target
        if isinstance(target, torch.Tensor):
            data = data.to(target.device)
        return nn.Parameter(data, node["requires_grad"]) if is_parameter else data.requires_grad_(node["requires_grad"])

    def _generator(self, index: int, node: dict[str, Any], target: Any) -> Any:
        parts = {name: self.put(data, None) for name, data in node["parts"].items()}
        generator, change = put_generator(parts, target)
        self._claimed.add(id(generator))
        self.changes.append(change)
        return generator

    def _space(self, index: int, node: dict[str, Any], target: Any) -> Any:
        if not isinstance(target, gymnasium.Space) or describe(target) != node["name"]:
            target = copy.deepcopy(self._known_constant(node["name"]))
        self._claimed.add(id(target))
        self.values[index] = target
        for data, inner in zip(node["inner"], spaces_within(target), strict=True):
            self.put(data, inner)
        generator = self.put(node["generator"], vars(target).get("_np_random"))
        self.changes.append(lambda: vars(target).update(_np_random=generator))
        return target

    def _constant(self, index: int, node: dict[str, Any], target: Any) -> Any:
        if target is not None and describe(target) == node["name"]:
            return target
        return self._known_constant(node["name"])

    def _known_constant(self, name: str) -> Any:
        if name not in self._constants:
            raise ValueError(
                f"the state refers to {name}, which the object that it is loaded into does not hold anywhere"
            )
        return self._constants[name]

    def _class_of(self, node: dict[str, Any], target: Any) -> Any:
        """The class of a node: that of the target, of something that it reaches, or of one defined beside these."""
        name = node["class"]
        known = type(target) if class_name(type(target)) == name else self._classes.get(name)
        known = known or KNOWN_CLASSES.get(name)
        if known is not None:
            return known
        module, _, qualified = name.partition(":")
        found: Any = sys.modules.get(module)
        for part in qualified.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        is_own = module.partition(".")[0] in self._packages
        if isinstance(found, type) and class_name(found) == name and (is_own or issubclass(found, nn.Module)):
            return found
        raise ValueError(
            f"the state holds a {name}, of which the object that it is loaded into has none, and which is not defined "
            f"beside its classes: give it one before"
        )


KNOWN_CLASSES = {class_name(kind): kind for kind in (*SEQUENCES, *MAPPINGS, types.SimpleNamespace)}


def _copy_into(parameter: nn.Parameter, data: torch.Tensor, requires_grad: bool) -> None:
    with torch.no_grad():
        parameter.copy_(data)
    parameter.requires_grad_(requires_grad)
