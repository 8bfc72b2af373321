"""Actions of nested spaces: many at a time, one by one, or as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from grpo_adapters.gym.observations.nested_spaces import NESTED, parts_of, values_of


def nested(space: gymnasium.Space[Any], parts: Mapping[str, Any], path: str = "") -> Any:
    """Parts by path put together as a nested space has them."""
    inside = f"{path}/" if path else ""
    if isinstance(space, spaces.Dict):
        return {name: nested(part, parts, f"{inside}{name}") for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nested(part, parts, f"{inside}{number}") for number, part in enumerate(space.spaces))
    return parts[path]


def one_by_one(actions: Any) -> Sequence[Any]:
    """The actions of n environments, as each environment takes its own."""
    if isinstance(actions, dict):
        rows = zip(*map(one_by_one, actions.values()), strict=True)
        return [dict(zip(actions, row, strict=True)) for row in rows]
    if isinstance(actions, tuple):
        return list(zip(*map(one_by_one, actions), strict=True))
    each: Sequence[Any] = actions
    return each


def recorded(space: gymnasium.Space[Any], action: Any) -> NDArray[Any]:
    """An action as an array, one of a nested space as a record."""
    if not isinstance(space, NESTED):
        return np.array(action)
    parts = parts_of(space)
    record = np.zeros((), dtype=[(path, part.dtype, part.shape) for path, part in parts.items()])
    for path, part in values_of(space, action):
        record[path] = part
    return record


def from_record(space: gymnasium.Space[Any], action: Any) -> Any:
    """What :func:`recorded` was given."""
    if not isinstance(space, NESTED) or action.dtype.names is None:
        return action
    return nested(space, {path: action[path] for path in action.dtype.names})
