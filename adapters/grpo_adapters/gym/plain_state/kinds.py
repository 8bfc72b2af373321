"""What objects are to a state: what is left as it is, what is made anew, what is changed in place."""

from __future__ import annotations

import functools
import logging
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from torch import nn

from grpo_adapters.gym.plain_state.leaves import ATOMS, TENSOR_DTYPES

POINTER_BYTES = tuple.__itemsize__
FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    np.ufunc,
    type(functools.lru_cache(len)),
)
CONSTANTS = (
    *FUNCTIONS,
    type,
    types.ModuleType,
    types.GenericAlias,
    np.dtype,
    EnvSpec,
    logging.Logger,
    types.EllipsisType,
    types.NotImplementedType,
)
SEQUENCES: tuple[type, ...] = (list, tuple, set, frozenset, deque)
MAPPINGS: tuple[type, ...] = (dict, OrderedDict, defaultdict, Counter)
KNOWN_CONSTANTS = (*SEQUENCES, *MAPPINGS, *ATOMS[1:], max, min, sum, len, abs, *TENSOR_DTYPES)
"""Those that any state may refer to."""
LEFT_ATTRIBUTES = {"metadata", "_metadata", "spec", "_cached_spec", "_saved_kwargs", "env_fns"}
LEFT_ATTRIBUTES |= {"_ezpickle_args", "_ezpickle_kwargs"}
"""Of environments: what they were made with and never changes."""


def class_name(kind: type) -> str:
    """Where a class is defined."""
    return f"{getattr(kind, '__module__', None)}:{kind.__qualname__}"


def describe(constant: Any) -> str:
    """What a constant is told by, which is found again in an object that was constructed in the same way."""
    if isinstance(constant, logging.Logger):
        return f"Logger {constant.name}"
    if isinstance(constant, np.dtype):
        return f"dtype {constant!r}"
    if isinstance(constant, EnvSpec):
        return f"EnvSpec {constant.id}"
    if isinstance(constant, gymnasium.Space):
        return f"space {constant!r}"
    name = getattr(constant, "__qualname__", None) or getattr(constant, "__name__", "")
    return f"{class_name(type(constant))} {getattr(constant, '__module__', None)}.{name}"


def is_environment(value: Any) -> bool:
    """Whether it is one environment or a vector of them, wrapped or not."""
    return isinstance(value, gymnasium.Env | gymnasium.vector.VectorEnv)


def is_constant(value: Any) -> bool:
    """Whether it is left as it is."""
    if isinstance(value, types.BuiltinFunctionType | types.MethodType):
        return isinstance(value.__self__, types.ModuleType | type | None)
    return isinstance(value, CONSTANTS)


def tells_its_state(value: Any) -> bool:
    """Whether an object has ``state_dict`` and ``load_state_dict``; modules are looked into all the same."""
    methods = (getattr(type(value), name, None) for name in ("state_dict", "load_state_dict"))
    return all(map(callable, methods)) and not isinstance(value, nn.Module)


def is_emulator(value: Any) -> bool:
    """Whether it is an emulator of ale-py's, which is written in C++ and tells its state as bytes."""
    return class_name(type(value)) == "ale_py._ale_py:ALEInterface"


def has_own_equality(kind: Any) -> bool:
    """Whether instances are told apart by what they hold, so that they are values, and not by which they are."""
    return kind.__eq__ is not object.__eq__


def is_plain_object(kind: type) -> bool:
    """Whether all that instances hold is in their attributes, and nothing in memory of a language below."""
    if issubclass(kind, types.SimpleNamespace):
        return True
    size = object.__basicsize__ + POINTER_BYTES * len(slot_names(kind))
    size += POINTER_BYTES * ((kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0))
    return kind.__itemsize__ == 0 and kind.__basicsize__ <= size


def slot_names(kind: type) -> list[str]:
    """Attributes that instances have a slot for."""
    return [
        name
        for base in kind.__mro__
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType) and name not in ("__dict__", "__weakref__")
        if base.__module__ != "builtins"
    ]


def attributes_of(value: Any) -> dict[str, Any]:
    """What is in an object's ``__dict__`` and slots, save what is left as it is."""
    left = LEFT_ATTRIBUTES if is_environment(value) else ()
    attributes = {name: part for name, part in getattr(value, "__dict__", {}).items() if name not in left}
    slots = {name: getattr(value, name) for name in slot_names(type(value)) if hasattr(value, name)}
    return {**attributes, **slots}


def set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Let an object hold these attributes and no others, save what is left as it is."""
    for name in attributes_of(value).keys() - attributes.keys():
        object.__delattr__(value, name)
    slots = set(slot_names(type(value)))
    for name, part in attributes.items():
        if name in slots:
            object.__setattr__(value, name, part)
        else:
            vars(value)[name] = part


def spaces_within(space: gymnasium.Space[Any]) -> Iterator[gymnasium.Space[Any]]:
    """The spaces that a space is made of."""
    for part in vars(space).values():
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else [part]
        yield from (inner for inner in parts if isinstance(inner, gymnasium.Space))
