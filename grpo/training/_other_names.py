"""Arguments of a trainer that other libraries call otherwise."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

from grpo.config._elsewhere import ARGUMENTS_ELSEWHERE

InitialiserT = TypeVar("InitialiserT", bound=Callable[..., None])


def tells_other_names(initialise: InitialiserT) -> InitialiserT:
    """Let an ``__init__`` tell what takes the place of arguments that it does not know, all at once."""
    known = [name for name in inspect.signature(initialise).parameters if name != "self"]

    @wraps(initialise)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            told = ";\n".join(_told(unknown, known))
            raise TypeError(f"{type(self).__name__} has {told}")
        initialise(self, *args, **kwargs)

    return cast("InitialiserT", checked)


def _told(unknown: Iterable[str], known: Collection[str]) -> Iterable[str]:
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1)
        if name in ARGUMENTS_ELSEWHERE:
            hint = f"here it is {ARGUMENTS_ELSEWHERE[name]}"
        else:
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(known)}"
        yield f"no argument {name!r}: {hint}"
