"""What versions of weights are called."""

from __future__ import annotations

import re

VERSION = re.compile(r"(anygrpo-[0-9a-f]{8})-[0-9a-f]+")


def version_name(run: str, checksum: str) -> str:
    """The name of the weights of a run, told to servers; the same on all processes that have the same weights.

    Example:
        >>> version_name("0f3a99c1", "52"), run_of("anygrpo-0f3a99c1-52"), run_of("default")
        ('anygrpo-0f3a99c1-52', 'anygrpo-0f3a99c1', None)
    """
    return f"anygrpo-{run}-{checksum}"


def run_of(version: str) -> str | None:
    """The run that a version of weights belongs to; None for one of other origin."""
    found = VERSION.fullmatch(version)
    return found[1] if found else None
