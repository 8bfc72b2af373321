"""The parts of nested spaces, by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

NESTED = (spaces.Dict, spaces.Tuple)


def parts_of(space: gymnasium.Space[Any], path: str = "") -> dict[str, gymnasium.Space[Any]]:
    """The spaces in nested Dicts and Tuples, by path: ``{"arm/camera": ..., "0": ...}``.

    Raises:
        TypeError: if two parts have the same path.
    """
    if not isinstance(space, NESTED):
        return {path: space}
    parts: dict[str, gymnasium.Space[Any]] = {}
    for name, part in _entries(space):
        found = parts_of(part, _below(path, name))
        if same := sorted(found.keys() & parts.keys()):
            raise TypeError(
                f"space {space} has two parts of the path {same[0]!r}, one of them a key with a slash or a number: "
                f"rename it, by gymnasium.wrappers.TransformObservation or TransformAction"
            )
        parts |= found
    return parts


def values_of(space: gymnasium.Space[Any], value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths with what a value of a nested space has there, in the order of :func:`parts_of`.

    Raises:
        ValueError: if it has other parts than its space.
    """
    if not isinstance(space, NESTED):
        yield path, value
        return
    _check_names(space, value, path)
    for name, part in _entries(space):
        yield from values_of(part, value[name], _below(path, name))


def batch_of_one(space: gymnasium.Space[Any], observation: Any, path: str = "") -> Any:
    """An observation as a vector of one environment would give it.

    Raises:
        ValueError: if it has other parts than its space.
    """
    if not isinstance(space, NESTED):
        return (observation,) if isinstance(space, spaces.Text) else np.asarray(observation)[None]
    _check_names(space, observation, path)
    own = {name: batch_of_one(part, observation[name], _below(path, name)) for name, part in _entries(space)}
    return own if isinstance(space, spaces.Dict) else tuple(own.values())


def where(path: str, whole: str) -> str:
    """How errors name a part of an observation."""
    return f"the part {path!r} of the observation" if path else whole


def _entries(space: Any) -> list[tuple[Any, gymnasium.Space[Any]]]:
    return list(space.spaces.items()) if isinstance(space, spaces.Dict) else list(enumerate(space.spaces))


def _below(path: str, name: Any) -> str:
    return f"{path}/{name}" if path else str(name)


def _check_names(space: Any, value: Any, path: str) -> None:
    expected = [name for name, _ in _entries(space)]
    if isinstance(space, spaces.Dict):
        came = list(value) if isinstance(value, Mapping) else None
        fits = came is not None and set(came) == set(expected)
        kind = "keys"
    else:
        came = list(range(len(value))) if isinstance(value, tuple | list) else None
        fits = came == expected
        kind = "entries"
    if not fits:
        raise ValueError(
            f"{where(path, 'an observation')} came as {type(value).__name__ if came is None else f'{kind} {came}'}, "
            f"expected the {kind} {expected}, as its space says: wrap the environment in "
            f"gymnasium.wrappers.TransformObservation"
        )
