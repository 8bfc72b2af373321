"""The words behind a command, as settings."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from pydantic import BaseModel, ValidationError

from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.toml_files import from_text, read_toml, require_known, to_toml

OptionsT = TypeVar("OptionsT", bound=BaseModel)
UNKNOWN = "?"


def parse(
    options: type[OptionsT],
    words: Sequence[str],
    *,
    command: str,
    given: Mapping[str, Any] | None = None,
    required: Sequence[str] = (),
) -> OptionsT:
    """Settings from the words of a command line.

    Args:
        options: the class of the settings.
        words: the words behind the command.
        command: what it is called, for the help.
        given: settings that hold where the words say nothing.
        required: settings without a default, texts, which the words must have if they are not given.

    Raises:
        SystemExit: with 2 if the words are wrong, with 0 after the help.
        UsageError: if what is given is wrong.
    """
    known = dict(given or {})
    with as_usage_errors():
        default = options.model_validate(dict.fromkeys(required, UNKNOWN) | known)
    missing = {name: tyro.MISSING for name in required if name not in known}
    default = default.model_copy(update=missing)
    return tyro.cli(
        options,
        args=list(words),
        default=default,
        prog=f"anygrpo {command}",
        registry=_registry(),
        config=(tyro.conf.FlagConversionOff, tyro.conf.PositionalMetavarFromFieldName),
    )


def take_option(words: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of an option, ``--name value`` or ``--name=value``, and the words without it.

    Example:
        >>> take_option(["CartPole-v1", "--config", "fast.toml", "--seed=1"], "config")
        ('fast.toml', ['CartPole-v1', '--seed=1'])
    """
    option, value, rest = f"--{name}", None, list(words)
    for place, word in enumerate(words):
        if word == option:
            if place + 1 == len(words):
                raise UsageError(f"{option} needs a value behind it")
            value, rest = words[place + 1], [*words[:place], *words[place + 2 :]]
        elif word.startswith(f"{option}="):
            value, rest = word.removeprefix(f"{option}="), [*words[:place], *words[place + 1 :]]
    return value, rest


def names_option(words: Sequence[str], *names: str) -> bool:
    """Whether a word is one of these options, written with hyphens or underscores, with its value or without.

    Example:
        >>> names_option(["CartPole-v1", "--batch_size=64"], "--batch-size")
        True
    """
    return any(word.partition("=")[0].replace("_", "-") in names for word in words)


def config_file(words: Sequence[str], named: Mapping[str, Path] | None = None) -> tuple[dict[str, Any], list[str]]:
    """The settings in the file of ``--config``, and the words without it.

    Args:
        words: the words behind the command.
        named: files that come with the package, by names that stand for them where there is no such path.
    """
    path, rest = take_option(words, "config")
    if path is None:
        return {}, rest
    if named and not Path(path).exists():
        if path in named:
            return read_toml(named[path]), rest
        if "." not in path:
            raise UsageError(f"there is no file {path}, and none of that name in the zoo, which has {', '.join(named)}")
    return read_toml(Path(path)), rest


def require_fields(settings: Mapping[str, Any], options: type[BaseModel], where: str) -> None:
    """Raise a UsageError if a setting is none of the class."""
    require_known(list(settings), list(options.model_fields), where)


def _registry() -> tyro.constructors.ConstructorRegistry:
    """Lets a setting that may be a table, such as a schedule, be given as TOML."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def tables(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        kinds = typing.get_args(info.type)
        if typing.get_origin(info.type) not in (types.UnionType, typing.Union) or not any(map(_is_model, kinds)):
            return None
        classes = tuple(kind for kind in kinds if isinstance(kind, type))
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="|".join("{TABLE}" if _is_model(kind) else _metavar(kind) for kind in kinds),
            instance_from_str=lambda words: _table(words[0], kinds),
            is_instance=lambda value: isinstance(value, classes) or value in _words(kinds),
            str_from_instance=lambda value: [to_toml({"": value}).removeprefix(" = ").strip()],
        )

    return registry


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _metavar(kind: Any) -> str:
    if _words([kind]):
        return "|".join(_words([kind]))
    return "None" if kind is type(None) else str(kind.__name__).upper()


def _words(kinds: Sequence[Any]) -> list[Any]:
    """The values of those that are literals."""
    return [word for kind in kinds if typing.get_origin(kind) is typing.Literal for word in typing.get_args(kind)]


def _table(text: str, kinds: Sequence[Any]) -> Any:
    value = from_text(text)
    if (value is None and type(None) in kinds) or value in _words(kinds):
        return value
    if isinstance(value, int | float) and float in kinds:
        return float(value)
    try:
        return next(kind for kind in kinds if _is_model(kind)).model_validate(value)
    except ValidationError as error:
        raise ValueError(str(error)) from error
