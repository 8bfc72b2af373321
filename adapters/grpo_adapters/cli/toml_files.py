"""Settings as TOML."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from grpo_adapters.cli.errors import UsageError

NOTHING = "none"
"""TOML has no word for None; this text stands for it."""


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a file, with None for the text ``none``.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        return {name: with_none(value) for name, value in tomllib.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from error


def from_text(text: str) -> Any:
    """What a value on the command line says, as in TOML; text needs no quotes.

    Example:
        >>> from_text("1e-3"), from_text("{start = 1, end = 0}"), from_text("None"), from_text("per_step")
        (0.001, {'start': 1, 'end': 0}, None, 'per_step')
    """
    try:
        return with_none(tomllib.loads(f"value = {text}")["value"])
    except tomllib.TOMLDecodeError:
        return {"true": True, "false": False, NOTHING: None}.get(text.lower(), text)


def to_toml(settings: Mapping[str, Any]) -> str:
    r"""Settings as lines of TOML.

    Example:
        >>> print(to_toml({"seed": 0, "clip": {"start": 0.2, "end": 0.0}, "device": None, "name": "a\tb"}), end="")
        seed = 0
        clip = { start = 0.2, end = 0.0 }
        device = "none"
        name = "a\tb"
    """
    return "".join(f"{name} = {_written(value)}\n" for name, value in settings.items())


def require_known(names: Collection[str], known: Collection[str], where: str) -> None:
    """Raise a UsageError if there is a setting that nobody knows."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(sorted(known))}"
            raise UsageError(f"{where} has the unknown key {name!r}: {hint}")


def with_none(value: Any) -> Any:
    """The value, or None for the text that stands for it."""
    return None if value == NOTHING else value


def _written(value: Any) -> str:
    if value is None:
        return f'"{NOTHING}"'
    if isinstance(value, BaseModel):
        return _written(value.model_dump())
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_written(part)}' for name, part in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
