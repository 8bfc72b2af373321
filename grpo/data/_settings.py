"""The settings of an object as flat text, to tell whether two are alike, whatever has become of them since."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel

from grpo.data._protocols import missing_methods, type_name
from grpo.data.tells_settings import TellsSettings

PLAIN = (bool, int, float, complex, str, bytes, Enum, torch.dtype, torch.device, type(None))


def settings_of_all(parts: Mapping[str, Any]) -> dict[str, str]:
    """Those of all, each by its role."""
    return {name: text for role, part in parts.items() for name, text in settings_of(role, part).items()}


def settings_of(name: str, part: Any) -> dict[str, str]:
    """An object's class, and each setting that is known of it, by a name that tells where it belongs."""
    return dict(_settings(name, part))


def _settings(name: str, value: Any) -> Iterator[tuple[str, str]]:
    yield name, text_of(value)
    for each, setting in _settings_in(value).items():
        yield from _settings(f"{name}.{each}", setting)


def text_of(value: Any) -> str:
    """Plain data as it is written, a function by its name, and of anything else, which may change, its class."""
    if _is_plain(value):
        return _plain_text(value)
    if inspect.isroutine(value):
        return str(getattr(value, "__qualname__", type_name(value)))
    return value.__qualname__ if isinstance(value, type) else type_name(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return _is_plain([*value, *value.values()])
    return isinstance(value, PLAIN)


def _plain_text(value: Any) -> str:
    """The same in every process: a set has no order, and a member of an enumeration may stand for any object."""
    if isinstance(value, Enum):
        return f"{type_name(value)}.{value.name}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_plain_text, value)))}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_plain_text(key)}: {_plain_text(entry)}' for key, entry in value.items())}}}"
    return repr(value)


def _settings_in(value: Any) -> dict[str, Any]:
    """What an object tells of itself or, where it does not, what is kept of its settings by name."""
    if isinstance(value, type) or missing_methods(value, TellsSettings):
        return {name: getattr(value, name) for name in _names_of_settings(value)}
    told = value.get_settings()
    if not isinstance(told, Mapping):
        raise TypeError(
            f"{type_name(value)}.get_settings returned a {type_name(told)}, expected a mapping from names to settings: "
            f'return {{"temperature": self.temperature}}, for instance'
        )
    return {str(name): setting for name, setting in told.items()}


def _names_of_settings(value: Any) -> list[str]:
    """The fields of frozen models of pydantic's, and what the core's other classes keep of their arguments by name.

    Fields of other models may change in the course of a run, or lead back to where they came from.
    """
    if isinstance(value, partial):
        return ["func", "args", "keywords"]
    if isinstance(value, BaseModel):
        is_frozen = value.model_config.get("frozen", False)
        return [name for name in type(value).model_fields if is_frozen and hasattr(value, name)]
    if not type(value).__module__.startswith("grpo.") or isinstance(value, (type, *PLAIN)):
        return []
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    return [name for name in inspect.signature(type(value)).parameters if hasattr(value, name)]
