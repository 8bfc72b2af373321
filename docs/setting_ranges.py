"""What numbers a setting may be, read off the constraints that its type carries."""

from collections.abc import Iterator
from math import inf
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from sphinx.util.typing import stringify_annotation

UNIONS = (Union, UnionType)
BOUNDS = {"gt": "<", "ge": "≤", "lt": "<", "le": "≤"}


def bounds_of(markers: Any) -> dict[str, Any]:
    """The bounds that markers of ``Annotated`` put on a value, by their names: gt, ge, lt, le and min_length.

    Example:
        >>> from pydantic import Field
        >>> bounds_of([Field(gt=0, le=1)])
        {'gt': 0, 'le': 1}
    """
    found: dict[str, Any] = {}
    for marker in markers:
        found |= bounds_of(marker.metadata if isinstance(marker, FieldInfo) else ())
        checked = getattr(marker, "func", marker)
        values = {name: getattr(checked, name, None) for name in (*BOUNDS, "min_length")}
        found |= {name: value for name, value in values.items() if value not in (None, inf)}
    return found


def in_words(name: str, bounds: dict[str, Any], kind: Any) -> str:
    """A range as one writes it.

    Example:
        >>> in_words("mixing", {"gt": 0, "le": 1}, float), in_words("count", {"gt": 0}, int)
        ('0 < mixing ≤ 1', 'count ≥ 1')
    """
    if bounds == {"min_length": 1}:
        return f"{name} not empty"
    if kind is int and "gt" in bounds:
        bounds = {"ge": bounds["gt"] + 1} | {bound: value for bound, value in bounds.items() if bound != "gt"}
    low = next((bound for bound in ("gt", "ge") if bound in bounds), None)
    high = next((bound for bound in ("lt", "le") if bound in bounds), None)
    if high is None:
        return f"{name} {'>' if low == 'gt' else '≥'} {bounds[low]:g}"
    left = "" if low is None else f"{bounds[low]:g} {BOUNDS[low]} "
    return f"{left}{name} {BOUNDS[high]} {_number(bounds[high])}"


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    return f"2**{power}" if power > 20 and value == 2**power else f"{value:g}"


def ranges_of(name: str, annotation: Any, markers: Any = ()) -> Iterator[str]:
    """The ranges of a setting; where they hold for a part of its type only, they say for which."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from ranges_of(name, arguments[0], [*markers, *arguments[1:]])
        return
    if bounds := bounds_of(markers):
        yield in_words(name, bounds, annotation) + (", at both ends of a schedule too" if origin in UNIONS else "")
    if origin in UNIONS:
        members = [member for member in arguments if member is not type(None)]
        for member in members:
            found = list(ranges_of(name, member))
            plain = get_args(member)[0] if get_origin(member) is Annotated else member
            only = "" if len(members) == 1 else f", as {stringify_annotation(plain, 'smart')}"
            yield from (text + only for text in found)
    if origin is tuple:
        for member in dict.fromkeys(arguments):
            yield from ranges_of("each", member)
