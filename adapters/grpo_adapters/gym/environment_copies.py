"""Copies of vector environments as they are, in the midst of their episodes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.utils import EzPickle
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorWrapper


def copy_environments(envs: Any) -> Any:
    """A copy of a vector environment that goes on as the original does.

    What the environments hold is copied with them. Functions that made them are left out, since they make nothing any
    more and often cannot be saved.

    Raises:
        TypeError: if it cannot be copied.
    """
    for part in _with_parts(envs):
        reason = _why_not_copied(part)
        if reason is not None:
            raise TypeError(_cannot_be_copied(part, reason))
    makers = getattr(envs.unwrapped, "env_fns", None)
    try:
        return copy.deepcopy(envs, {} if makers is None else {id(makers): []})
    except Exception as error:
        reason = f"copy.deepcopy raised {type(error).__name__} ({error})"
        raise TypeError(_cannot_be_copied(envs, reason)) from error


def put_environments(copied: Any, envs: Any) -> None:
    """Let a vector environment go on as ``copied`` would, which is left as it is; whoever holds it sees it go on."""
    makers = getattr(envs.unwrapped, "env_fns", None)
    replacement = copy.deepcopy(copied)
    attributes = dict(vars(replacement))
    vars(replacement).clear()  # with nothing left it closes nothing when it is deleted
    vars(envs).clear()
    vars(envs).update(attributes)
    if makers is not None:
        envs.unwrapped.env_fns = makers


def _with_parts(environment: Any) -> Iterator[Any]:
    """The environment, what it wraps and what it is a vector of, save inside of what copies itself."""
    yield environment
    if hasattr(environment, "__deepcopy__"):
        return
    if isinstance(environment, gymnasium.Wrapper | VectorWrapper):
        yield from _with_parts(environment.env)
    elif isinstance(environment, SyncVectorEnv):
        for part in environment.envs:
            yield from _with_parts(part)


def _why_not_copied(environment: Any) -> str | None:
    """What ``copy.deepcopy`` would do wrong without saying so; None where nothing is known."""
    if hasattr(environment, "__deepcopy__"):
        return None
    if isinstance(environment, AsyncVectorEnv):
        return "its environments live in processes of their own (a SyncVectorEnv holds them here)"
    if isinstance(environment, EzPickle):
        return "copy.deepcopy would make a new one from its arguments, as gymnasium.utils.EzPickle does"
    return None


def _cannot_be_copied(environment: Any, reason: str) -> str:
    return (
        f"the state of a FragmentSampler holds copies of its environments, but {type(environment).__name__} cannot be "
        f"copied: {reason}. Give it a method __deepcopy__ that copies it as it is, or keep the state_dict() of the "
        f"policy and of the optimizer alone and begin new episodes"
    )
