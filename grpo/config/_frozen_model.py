"""What all settings are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grpo.config._elsewhere import KNOWN_ELSEWHERE_AS, STANDS_ELSEWHERE
from grpo.data._protocols import shown

Fraction = Annotated[float, Field(ge=0, le=1)]


def _takes_bool(annotation: Any) -> bool:
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return any(isinstance(part, bool) for part in parts)
    return annotation in (bool, Any) or any(map(_takes_bool, parts))


class FrozenModel(BaseModel):
    """Base of all settings: immutable, keyword-only, no unknown key, no NaN and no infinity.

    Example:
        >>> class Penalty(FrozenModel):
        ...     weight: float = 0.1
        >>> Penalty(weight=0.5)
        Penalty(weight=0.5)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _name_what_is_known(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            told = ";\n".join(cls._told(list(map(str, unknown))))
            raise ValueError(f"{cls.__name__} has {told}")
        for name, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, bool) and not _takes_bool(cls.model_fields[name].annotation):
                raise ValueError(f"{cls.__name__}.{name} is {value}, expected another value: it is no switch")
        return given

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The settings, functions by their names."""
        return ((name, shown(value)) for name, value in super().__repr_args__())

    @classmethod
    def _told(cls, unknown: list[str]) -> Iterator[str]:
        """What is said of each name that is none; those that nothing is like come last, in one go."""
        hints = {name: cls._hint(name) for name in unknown}
        yield from (f"no setting {name!r}: {hint}" for name, hint in hints.items() if hint is not None)
        strange = [repr(name) for name, hint in hints.items() if hint is None]
        if strange:
            yield f"no setting {', '.join(strange)}: expected some of {', '.join(sorted(cls.model_fields))}"

    @classmethod
    def _hint(cls, unknown: str) -> str | None:
        meant = KNOWN_ELSEWHERE_AS.get(unknown)
        if meant is not None and set(meant.split(" and ")) <= cls.model_fields.keys():
            return f"it is called {meant} here"
        near = difflib.get_close_matches(unknown, cls.model_fields, n=1)
        if near:
            return f"did you mean {near[0]}?"
        return f"here it is {STANDS_ELSEWHERE[unknown]}" if unknown in STANDS_ELSEWHERE else None
