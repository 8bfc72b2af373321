"""The state of what a trainer or a collector was given, of which nothing need tell any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from grpo.data._generators import check_generator_state, generator_state, generators_of, set_generator_state
from grpo.data._protocols import kind_of, type_name
from grpo.data.state import copied, is_stateful, load_state, require_keys


def part_states(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The state of each object by its role; that of one in two roles is there once.

    It is what its own ``state_dict`` tells, else its parameters and the buffers of modules that it holds; and those of
    its ``generator`` and ``generators``.
    """
    return {role: _part_state(part) for role, part in each_once(parts).items()}


def load_part_states(parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Put back what :func:`part_states` took out of objects of the same roles and kinds.

    Raises:
        ValueError: if an object is another, and does not take its state; others may have changed.
    """
    for role, part in each_once(parts).items():
        state = states[role]
        if "state" in state:
            load_state(part, state["state"], role)
        else:
            for name, tensor in _tensors_of(part).items():
                with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                    tensor.copy_(state["tensors"][name])
        for generator, own in zip(generators_of(part), state.get("generators", ()), strict=True):
            set_generator_state(generator, own)


def load_whole_part_states(parts: Mapping[str, Any], states: Any, owner: object) -> None:
    """The same, of all objects or of none: where one does not take its state, all are as they were.

    Raises:
        ValueError: if an object is another.
    """
    check_part_states(parts, states, owner)
    before = part_states(parts)
    try:
        load_part_states(parts, states)
    except BaseException:
        load_part_states(parts, before)
        raise


def check_part_states(parts: Mapping[str, Any], states: Any, owner: object) -> None:
    """Raise a ValueError, before anything has changed, if an object is plainly not the one that a state is of."""
    require_keys(states, set(each_once(parts)), owner)
    for role, part in each_once(parts).items():
        _check_part(part, states[role], f"{role} {type_name(part)}")


def modules_in(part: object) -> dict[str, nn.Module]:
    """An object that is a module, or the modules among its attributes and in lists and dictionaries there, by name."""
    if isinstance(part, nn.Module):
        return {"": part}
    held: dict[str, Any] = {}
    for attribute, value in getattr(part, "__dict__", {}).items():
        if isinstance(value, dict):
            held |= {f"{attribute}.{key}.": own for key, own in value.items()}
        elif isinstance(value, list | tuple):
            held |= {f"{attribute}.{place}.": own for place, own in enumerate(value)}
        else:
            held[f"{attribute}."] = value
    return {prefix: module for prefix, module in held.items() if isinstance(module, nn.Module)}


def each_once(named: Mapping[str, Any]) -> dict[str, Any]:
    """Each object under the first of its names."""
    first = {id(value): name for name, value in reversed(list(named.items()))}
    return {name: value for name, value in named.items() if first[id(value)] == name}


def _part_state(part: Any) -> dict[str, Any]:
    state = {"state": copied(part.state_dict())} if is_stateful(part) else {"tensors": copied(_tensors_of(part))}
    generators = [generator_state(generator) for generator in generators_of(part)]
    return state | {"generators": generators} if generators else state


def _tensors_of(part: Any) -> dict[str, Tensor]:
    """What changes in an object that does not tell: its parameters, if it has any, and buffers."""
    parameters = part.get_parameters() if hasattr(part, "get_parameters") else {}
    return each_once({**parameters, **named_buffers(part)})


def named_buffers(part: object) -> dict[str, Tensor]:
    """The buffers of a module, or of the modules that an object holds, by name."""
    modules = modules_in(part).items()
    return {f"{prefix}{name}": buffer for prefix, module in modules for name, buffer in module.named_buffers()}


def _check_part(part: Any, state: Any, owner: str) -> None:
    generators = generators_of(part)
    expected = {"state" if is_stateful(part) else "tensors"} | ({"generators"} if generators else set())
    if not isinstance(state, Mapping) or state.keys() != expected:
        came = sorted(state) if isinstance(state, Mapping) else type_name(state)
        raise ValueError(
            f"state_dict holds {came} of {owner}, expected {sorted(expected)}: construct it in the same way"
        )
    if "tensors" in state:
        ours, theirs = (
            {name: kind_of(value) for name, value in own.items()} for own in (_tensors_of(part), state["tensors"])
        )
        _require_same(ours, theirs, owner)
    elif isinstance(part, nn.Module):
        _check_dtypes(part.state_dict(), state["state"], owner)
    if not generators:
        return
    if not isinstance(state["generators"], list) or len(state["generators"]) != len(generators):
        raise ValueError(
            f"state_dict holds {kind_of(state['generators'])} of the generators of {owner}, expected a list of "
            f"{len(generators)}: construct it in the same way"
        )
    for generator, own in zip(generators, state["generators"], strict=True):
        check_generator_state(generator, own, owner)


def _check_dtypes(tensors: Mapping[str, Any], stored: Mapping[str, Any], owner: str) -> None:
    """A module checks names and shapes itself, but rounds to another precision without a word."""
    names = [
        name
        for name in tensors.keys() & stored.keys()
        if isinstance(tensors[name], Tensor) and isinstance(stored[name], Tensor) and not name.endswith("_extra_state")
    ]
    ours, theirs = ({name: str(own[name].dtype) for name in names} for own in (tensors, stored))
    _require_same(ours, theirs, owner)


def _require_same(ours: Mapping[str, str], theirs: Mapping[str, str], owner: str) -> None:
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"state_dict and {owner} differ in {', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}: "
            f"{name} is {theirs.get(name, 'missing')} in the state, {ours.get(name, 'missing')} in the object; "
            f"construct it in the same way"
        )
