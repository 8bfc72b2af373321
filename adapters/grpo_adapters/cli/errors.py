"""Mistakes of whoever calls the command, told without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class UsageError(Exception):
    """The command was called in a way that cannot work; the message says what to do."""


@contextmanager
def as_usage_errors(*more: type[Exception]) -> Iterator[None]:
    """A block in which what is wrong is wrong with the options: files, names, values, libraries that are missing."""
    try:
        yield
    except ValidationError as error:
        raise UsageError(described(error)) from error
    except Exception as error:
        if not isinstance(error, (ImportError, OSError, TypeError, ValueError, *more)):
            raise
        raise UsageError(str(error)) from error


def described(error: ValidationError) -> str:
    """What pydantic found, a line each.

    Example:
        >>> from grpo import PPOConfig
        >>> try:
        ...     PPOConfig(gae_lambda=3)
        ... except ValidationError as error:
        ...     print(described(error))
        gae_lambda: input should be less than or equal to 1, got 3
    """
    lines = []
    for each in error.errors(include_url=False):
        place, text = ".".join(map(str, each["loc"])) or "options", each["msg"]
        lines.append(f"{place}: {text[:1].lower()}{text[1:]}, got {each['input']!r:.100}")
    return "\n".join(lines)
