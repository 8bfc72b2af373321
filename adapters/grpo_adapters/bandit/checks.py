"""Checks of the states of bandits: theirs, or those of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def check_state(own: Mapping[str, Any], state_dict: Any, owner: object) -> None:
    """Raise a ValueError unless a state has the names, and its tensors the shapes and types, of the owner's own."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            f"{type(owner).__name__}.load_state_dict was given a {type(state_dict).__name__}, expected what "
            f"state_dict() of one that was constructed in the same way returned"
        )
    ours, theirs = _kinds(own), _kinds(state_dict)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{type(owner).__name__}.load_state_dict was given a state that differs in {', '.join(differing)}: {name} "
            f"is {theirs.get(name, 'missing')}, expected {ours.get(name, 'nothing of that name')}; pass what "
            f"state_dict() of one that was constructed in the same way returned"
        )


def _kinds(state_dict: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        for name, value in state_dict.items()
    }
