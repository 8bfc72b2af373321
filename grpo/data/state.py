"""State that is taken out of an object, to be put back into it or into one made in the same way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.data._protocols import missing_methods, type_name


@runtime_checkable
class Stateful(Protocol):
    """An object that changes in the course of a training, and can go on from where it was.

    After ``load_state_dict(state_dict())``, into the same object or into one that was constructed in the same way,
    everything goes on bitwise as if nothing had happened. Both copy: nothing that happens later to the object changes
    a state that was taken, or the other way round.
    """

    def state_dict(self) -> dict[str, Any]:
        """All that changes, by name."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go on from what ``state_dict`` returned."""
        ...


def copied(value: Any) -> Any:
    """The same value to itself: tensors are detached and cloned, containers copied with what they hold."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: copied(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(part) for part in value)
    return copy.deepcopy(value)


def states_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The states of those parts that have one, by name."""
    return {name: copied(part.state_dict()) for name, part in parts.items() if is_stateful(part)}


def load_states_of(parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Put back what :func:`states_of` took out of parts of the same kinds.

    Raises:
        ValueError: if a state is missing, or belongs to no part.
    """
    stateful = {name: part for name, part in parts.items() if is_stateful(part)}
    if stateful.keys() != states.keys():
        raise ValueError(
            f"state_dict holds states of {sorted(states)}, expected {sorted(stateful)}: load it into an object that "
            f"was constructed in the same way"
        )
    for name, part in stateful.items():
        load_state(part, states[name], name)


def load_state(part: Any, state: Any, role: str) -> None:
    """Let an object that tells its state take a copy of one back.

    Raises:
        ValueError: if it does not take it; ``role`` names the object.
    """
    try:
        part.load_state_dict(copied(state))
    except Exception as error:
        raise ValueError(
            f"{role} {type_name(part)} did not take its state back ({type(error).__name__}: {_shortened(error)}): load "
            f"it into one that was constructed in the same way"
        ) from error


def _shortened(error: Exception) -> str:
    """What an error says, in one line: PyTorch names each of a thousand tensors in a line of its own."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    more = f" ... and {len(others) - 1} more" if len(others) > 1 else ""
    return " ".join([first, *others[:1]]) + more


def is_stateful(part: object) -> bool:
    """Whether an object tells its state and takes it back."""
    return not isinstance(part, type) and not missing_methods(part, Stateful)


def require_whole_state(part: object, role: str) -> None:
    """Raise a TypeError if an object tells its state, but does not take it back, or the other way round."""
    if isinstance(part, type) or len(missing := missing_methods(part, Stateful)) != 1:
        return
    [has] = {"state_dict", "load_state_dict"} - set(missing)
    raise TypeError(
        f"{role} {type_name(part)} has {has}, but no {missing[0]}, so that its state would be lost: give it "
        f"both, or none"
    )


def require_keys(state_dict: Any, expected: set[str], owner: object) -> None:
    """Raise a ValueError unless a state holds just the names that are expected of it."""
    if not isinstance(state_dict, Mapping) or set(state_dict) != expected:
        came = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type_name(state_dict)
        raise ValueError(
            f"{type_name(owner)}.load_state_dict was given {came}, expected {sorted(expected)}: pass what state_dict() "
            f"of one that was constructed in the same way returned"
        )
