"""The settings of an object as flat text, to tell whether two are alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from grpo.data._protocols import type_name


def settings_of_all(parts: Mapping[str, Any]) -> dict[str, str]:
    """Those of all, each by its role."""
    return {name: text for role, part in parts.items() for name, text in settings_of(role, part).items()}


def settings_of(name: str, part: Any) -> dict[str, str]:
    """An object's class, and each setting of the library's own ones, by a name that tells where it belongs.

    No text depends on where objects lie in memory.
    """
    return dict(_settings(name, part, type_name(part)))


def _settings(name: str, value: Any, otherwise: str) -> Iterator[tuple[str, str]]:
    names = _names_of_settings(value)
    yield name, otherwise if names is None else type_name(value)
    for each in names or ():
        setting = getattr(value, each)
        yield from _settings(f"{name}.{each}", setting, text_of(setting))


def text_of(value: Any) -> str:
    """A setting as text; a function or an object without a text of its own by its name or that of its class."""
    if hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return type_name(value) if " object at 0x" in repr(value) else repr(value)


def _names_of_settings(value: Any) -> list[str] | None:
    """The fields of pydantic's models, and of a dataclass of the core; another one may hold what is of its process."""
    if hasattr(value, "model_dump"):
        return list(type(value).model_fields)
    is_own = is_dataclass(value) and type(value).__module__.startswith("grpo.")
    return [field.name for field in fields(value)] if is_own else None
