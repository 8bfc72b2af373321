"""What a run is made of, as JSON, to be compared with what it goes on with."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from grpo.data._protocols import type_name
from grpo.data._settings import settings_of, settings_of_all
from grpo.data._version import VERSION


def description_of(trainer: Any) -> dict[str, Any]:
    """The trainer's class, its config as it was resolved, what it was given and its settings, and the versions."""
    return {
        "trainer": type_name(trainer),
        "config": config_of(trainer),
        "parts": settings_of_all(trainer._owned),
        "versions": versions(),
    }


def config_of(trainer: Any) -> dict[str, Any]:
    """The settings of a trainer as JSON; functions by their names."""
    settings: dict[str, Any] = json.loads(json.dumps(trainer.config.model_dump(), default=_name_of))
    return settings


def versions() -> dict[str, str]:
    """Of this library, Python, PyTorch, and NumPy where it is there."""
    numpy = sys.modules.get("numpy")
    return {
        "anygrpo": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **({} if numpy is None else {"numpy": numpy.__version__}),
    }


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Each setting that differs, with its values."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, "missing"), now.get(name, "missing")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from (f"{name}.{part}" for part in differing_keys(old, new))
        elif old != new:
            yield f"{name} ({old!r} before, {new!r} now)"


def warn_of_other_settings(policy: object, manifest: Mapping[str, Any]) -> None:
    """Tell where the policy whose weights these are had other settings than the one that takes them.

    Args:
        policy: takes them.
        manifest: of a checkpoint, with what its run was made of.
    """
    told = manifest.get("parts", {})
    before = {name: told[name] for name in told if name == "policy" or name.startswith("policy.")}
    differing = list(differing_keys(before, settings_of("policy", policy))) if before else []
    if differing:
        warnings.warn(
            f"the weights are of a policy that was made otherwise, so that it may decide otherwise with them: "
            f"{', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}",
            stacklevel=3,
        )


def _name_of(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump()
    return getattr(value, "__qualname__", type_name(value))
