"""The random generator that a model draws from, where it keeps one of its own."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.data._protocols import kind_of, type_name


def generator_of(model: object) -> Any | None:
    """What a model keeps in its attribute ``generator``, PyTorch's or one of NumPy's; None where it is neither."""
    generator = getattr(model, "generator", None)
    return generator if isinstance(generator, torch.Generator) or _is_numpys(generator) else None


def generators_of(model: object) -> list[Any]:
    """The generator of a model, and those that it tells in its attribute ``generators``, of parts of it that draw."""
    own = generator_of(model)
    parts = getattr(model, "generators", None)
    told = [each for each in parts if _draws(each)] if isinstance(parts, list | tuple) else []
    for each in told:
        if not (isinstance(each, torch.Generator) or _is_numpys(each)):
            raise TypeError(
                f"{type_name(model)}.generators holds a {type_name(each)}, expected torch.Generator or "
                f"numpy.random.Generator: make it numpy.random.default_rng(seed)"
            )
    return ([] if own is None else [own]) + told


def generator_state(generator: Any) -> Any:
    """Its state, a copy."""
    return copy.deepcopy(generator.bit_generator.state) if _is_numpys(generator) else generator.get_state()


def set_generator_state(generator: Any, state: Any) -> None:
    """Let it go on from a state."""
    if _is_numpys(generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state.cpu())


def seed_generator(generator: Any, seed: int) -> None:
    """Let it begin anew with a seed."""
    if _is_numpys(generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.manual_seed(seed)


def seed_of(generator: Any) -> int:
    """The seed that it began with, or a number that follows from where it is now, which moves it on."""
    return int(generator.integers(2**63)) if _is_numpys(generator) else generator.initial_seed()


def check_generator_state(generator: Any, stored: Any, owner: str) -> None:
    """Raise a ValueError unless a state is one that the generator can go on from."""
    if _is_numpys(generator):
        expected = generator.bit_generator.state["bit_generator"]
        if not isinstance(stored, Mapping) or stored.get("bit_generator") != expected:
            raise ValueError(f"the state of the generator of {owner} is no {expected}'s: construct it in the same way")
        return
    size = len(generator.get_state())
    if not isinstance(stored, Tensor) or stored.dtype != torch.uint8 or stored.shape != (size,):
        raise ValueError(
            f"the state of the generator of {owner} is {kind_of(stored)}, expected {size} bytes, as generators on "
            f"{generator.device.type} have: load it where the generator is on the same kind of device as it was"
        )


def _draws(value: object) -> bool:
    """Whether it is a random generator of any kind; other things may be called generators."""
    return isinstance(value, torch.Generator | random.Random) or _is_numpys(value) or type_name(value) == "RandomState"


def _is_numpys(generator: object) -> bool:
    return hasattr(generator, "bit_generator")
