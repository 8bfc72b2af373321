"""Settings in the API reference: every field with its type, default, range and description, inherited ones too.

Pydantic's signature of a model shows validators in place of types, and depends on whether the model was used before.
Here the fields are read off the class, their defaults off its source, and their descriptions off the docstrings.
"""

import ast
import inspect
import re
from dataclasses import dataclass
from functools import cache, reduce
from itertools import groupby
from operator import or_
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from setting_ranges import ranges_of
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.typing import stringify_annotation

BEFORE_NAPOLEON = 400


def without_constraints(annotation: Any) -> Any:
    """A type without what ``Annotated`` says of its values, at any depth."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return without_constraints(arguments[0])
    if origin in (Union, UnionType):
        return reduce(or_, map(without_constraints, arguments))
    if origin is tuple:
        return tuple.__class_getitem__(tuple(map(without_constraints, arguments)))
    return annotation


@cache
def own_defaults(model: type) -> dict[str, str]:
    """The default of each field that the body of a class annotates, as it is written; empty without one."""
    source = dedent(inspect.getsource(model))
    [body] = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: default_as_written(node.value, source)
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def default_as_written(value: ast.expr | None, source: str) -> str:
    """The default that an assignment gives to a field."""
    called = ""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id.lower() == "field":
        named = {keyword.arg: keyword.value for keyword in value.keywords}
        called = "()" if "default_factory" in named else ""
        value = value.args[0] if value.args else named.get("default_factory", named.get("default"))
    written = None if value is None else ast.get_source_segment(source, value)
    return "" if written is None else written + called


def models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and those it inherits fields from, itself first."""
    return [base for base in model.__mro__ if issubclass(base, BaseModel) and base.__module__.startswith("grpo")]


@dataclass(frozen=True)
class Setting:
    """A field of settings as the reference shows it."""

    name: str
    kind: str
    default: str
    described_by: type[BaseModel]
    ranges: list[str]
    text: list[str]

    def lines(self, *before: str) -> list[str]:
        """Its ranges, with more in front of them, and what the docstring says, in reStructuredText."""
        head = [*before, *self.ranges]
        return [f"{', '.join(head)}:", *self.text] if head else self.text


def settings_of(model: type[BaseModel]) -> list[Setting]:
    """The fields of a class: its own as they stand there, then those that it inherits, class by class."""
    left, shown = dict(model.model_fields), []
    for owner in models_of(model):
        for name, text in own_descriptions(owner).items():
            if (field := left.pop(name, None)) is None:
                continue
            default = next(own_defaults(base)[name] for base in models_of(model) if name in own_defaults(base))
            kind = stringify_annotation(without_constraints(field.annotation), "smart").replace("'", '"')
            ranges = [
                re.sub("^([^,]*)", r"``\1``", words) for words in ranges_of(name, field.annotation, field.metadata)
            ]
            shown.append(Setting(name, kind, default, owner, ranges, text))
    if left:
        raise ExtensionError(f"{model.__qualname__} has settings that no docstring describes: {', '.join(left)}")
    return shown


@cache
def own_descriptions(model: type[BaseModel]) -> dict[str, list[str]]:
    """What the section ``Attributes`` of a docstring says of each field."""
    descriptions: dict[str, list[str]] = {}
    lines = inspect.cleandoc(model.__doc__ or "").splitlines()
    for line in lines[slice(*attributes_section(lines))]:
        if start := re.match(r" {4}(\w+): (.*)", line):
            descriptions[start[1]] = [start[2]]
        elif line.strip():
            [*descriptions.values()][-1].append(line.strip())
    return descriptions


def attributes_section(lines: list[str]) -> tuple[int, int]:
    """Where the entries of the section ``Attributes`` begin and end."""
    if "Attributes:" not in lines:
        return len(lines), len(lines)
    begin = lines.index("Attributes:") + 1
    after = (number for number in range(begin, len(lines)) if lines[number] and not lines[number].startswith(" "))
    return begin, next(after, len(lines))


def signature_of_settings(model: type[BaseModel]) -> str:
    """Fields as arguments, in the order in which they are described."""
    fields = [
        f"{field.name}: {field.kind}" + f" = {field.default}" * bool(field.default) for field in settings_of(model)
    ]
    return f"({', '.join(['*', *fields] if fields else [])})"


def show_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """An entry for every field of settings in place of the section ``Attributes``."""
    if what != "class" or not issubclass(obj, BaseModel):
        return
    shown: list[str] = []
    for owner, fields in groupby(settings_of(obj), key=lambda field: field.described_by):
        if owner is not obj:
            shown += [f"From :class:`~{owner.__module__}.{owner.__qualname__}`:", ""]
        for field in fields:
            shown += [f".. py:attribute:: {field.name}", f"   :type: {field.kind}"]
            shown += [f"   :value: {field.default}"] if field.default else []
            shown += ["   :no-contents-entry:", "", *(f"   {line}" for line in field.lines()), ""]
    begin, end = attributes_section(lines)
    lines[begin - 1 if "Attributes:" in lines else begin : end] = shown


def setup(app: Sphinx) -> dict[str, bool]:
    """Show settings as what they are."""
    app.connect("autodoc-process-docstring", show_fields, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}
