"""Whether an object has the methods of a protocol."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any

from torch import Tensor

READY_MADE = {
    "PolicyModel": {
        "name": "grpo_adapters.huggingface.CausalLMPolicy",
        "module": "grpo_adapters.huggingface.CausalLMPolicy",
    },
    "RewardModel": {
        "name": "grpo_adapters.huggingface.SequenceClassificationReward",
        "function": "grpo_adapters.huggingface.FunctionReward",
    },
}
"""What makes a model of a protocol of what is often passed in its place."""


@cache
def methods_of(protocol: type) -> tuple[str, ...]:
    """The methods that a protocol itself asks for, by name."""
    return tuple(name for name, member in vars(protocol).items() if callable(member) and not name.startswith("_"))


def missing_methods(model: object, protocol: type) -> list[str]:
    """Methods of the protocol that the model does not have."""
    return [name for name in methods_of(protocol) if not callable(getattr(model, name, None))]


def those_with(protocol: type, things: Iterable[Any]) -> list[Any]:
    """Those that have the protocol's methods, each once."""
    return [thing for thing in {id(thing): thing for thing in things}.values() if not missing_methods(thing, protocol)]


def require_methods(model: object, protocol: type, role: str) -> None:
    """Raise a TypeError that names every method the model lacks."""
    missing = missing_methods(model, protocol)
    if missing:
        raise TypeError(
            f"{role} {type_name(model)} is not a {protocol.__name__}: it lacks {', '.join(missing)}. "
            f"{_hint(model, missing, protocol)}"
        )
    if isinstance(model, type):
        raise TypeError(f"{role} is the class {model.__name__}, expected an instance: pass {model.__name__}(...)")


def _hint(model: object, missing: list[str], protocol: type) -> str:
    """What to pass in place of what is no model, where that is plain; else what to add to it."""
    if isinstance(model, type):
        return f"pass an instance, not the class: {model.__name__}(...)"
    wrappers = READY_MADE.get(protocol.__name__, {})
    if isinstance(model, str) and "name" in wrappers:
        return f"a name is none: for a language model pass {wrappers['name']}({model!r})"
    parts = model if isinstance(model, list | tuple) and model else [model]
    if all(callable(part) and not hasattr(part, "train") for part in parts) and "function" in wrappers:
        return f"a function is none by itself: wrap it, for language models by {wrappers['function']}(...)"
    if callable(getattr(model, "generate", None)) and "module" in wrappers:
        return f"wrap it, for a language model by {wrappers['module']}(model, tokenizer)"
    return f"add {'them' if len(missing) > 1 else 'it'}; grpo.{protocol.__name__} documents each"


def type_name(value: object) -> str:
    """The name of its class, or its own where it is one."""
    return value.__name__ if isinstance(value, type) else type(value).__name__


class _ShownByName:
    """A function in the text of what holds it: its name, and not where it lies in memory."""

    def __init__(self, function: Any) -> None:
        self.name = str(getattr(function, "__qualname__", type_name(function)))

    def __repr__(self) -> str:
        return self.name


def shown(value: Any) -> Any:
    """What stands for a value where it is shown: a function by its name, anything else as it is."""
    return _ShownByName(value) if inspect.isroutine(value) else value


def kind_of(value: object) -> str:
    """The dtype and shape of a tensor, the class of anything else."""
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type_name(value)
