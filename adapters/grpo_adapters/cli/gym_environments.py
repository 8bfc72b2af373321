"""Environments as the command is told of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.toml_files import from_text

Environment = gymnasium.Env[Any, Any]


def make(name: str, wrappers: Sequence[str] = (), **settings: Any) -> Environment:
    """An environment in its wrappers.

    Raises:
        UsageError: if gymnasium has none of that name, it lacks what it needs, or a wrapper cannot take it.
    """
    with as_usage_errors(gymnasium.error.Error):
        environment = gymnasium.make(name, **settings)
    for text in wrappers:
        try:
            environment = wrapper_of(text)(environment)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"the wrapper {text!r} cannot take {name}: {type(error).__name__}: {error}") from error
    return environment


def make_several(name: str, wrappers: Sequence[str], count: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Environments side by side."""
    make(name, wrappers).close()
    with as_usage_errors(gymnasium.error.Error):
        return gymnasium.make_vec(
            name,
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            wrappers=[wrapper_of(text) for text in wrappers],
        )


def wrapper_of(text: str) -> Callable[[Environment], gymnasium.Wrapper[Any, Any, Any, Any]]:
    """What puts a wrapper around an environment.

    Args:
        text: ``module:class``, and a table of TOML behind it if the class takes more than an environment.

    Example:
        >>> wrapper = wrapper_of("gymnasium.wrappers:RepeatAction {num_repeats = 4}")
        >>> wrapper(gymnasium.make("CartPole-v1")).num_repeats
        4
    """
    name, _, table = text.partition(" ")
    module, _, kind = name.partition(":")
    settings = from_text(table) if table.strip() else {}
    if not module or not kind or not isinstance(settings, dict):
        raise UsageError(
            f"the wrapper {text!r} is not understood, expected module:class and what else it takes as a table, for "
            f"instance 'gymnasium.wrappers:FrameStackObservation {{stack_size = 4}}'"
        )
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the wrapper {text!r} is not found: {error}") from error
    return partial(found, **settings)
