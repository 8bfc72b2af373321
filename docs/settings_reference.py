"""Settings in the API reference: every field with its type, default and description, inherited ones too.

Pydantic's signature of a model shows validators in place of types, and depends on whether the model was used before.
Here the fields are read off the class, their defaults off its source, and their descriptions off the docstrings.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, reduce
from operator import or_
from textwrap import dedent
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.typing import stringify_annotation
from typing_extensions import is_protocol

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
def own_defaults(model: type[BaseModel]) -> dict[str, str]:
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
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Field":
        named = {keyword.arg: keyword.value for keyword in value.keywords}
        called = "()" if "default_factory" in named else ""
        value = value.args[0] if value.args else named.get("default_factory", named.get("default"))
    written = None if value is None else ast.get_source_segment(source, value)
    return "" if written is None else written + called


def models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and those it inherits fields from, itself first."""
    return [base for base in model.__mro__ if issubclass(base, BaseModel) and base.__module__.startswith("grpo")]


def fields_of(model: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """Name, type and default of every field."""
    for name, field in model.model_fields.items():
        default = next(own_defaults(base)[name] for base in models_of(model) if name in own_defaults(base))
        yield name, stringify_annotation(without_constraints(field.annotation), "smart"), default


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


def show_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """The fields of settings as arguments, none for a protocol, and defaults that Sphinx can read elsewhere."""
    if what != "class" or signature is None:
        return None
    if issubclass(obj, BaseModel):
        own = [f"{field}: {kind}{f' = {default}' if default else ''}" for field, kind, default in fields_of(obj)]
        return f"({', '.join(['*', *own] if own else [])})", returns
    if is_protocol(obj):
        return "", returns
    if is_dataclass(obj):
        for field in fields(obj):
            if field.default_factory is not MISSING:
                signature = signature.replace("<factory>", f"{stringify_annotation(field.default_factory)}()", 1)
    return re.sub(r"<function (\w+)[^>]*>", r"\1", signature), returns


def show_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """An entry for every field of settings in place of the section ``Attributes``."""
    if what != "class" or not issubclass(obj, BaseModel):
        return
    kinds = {field: (kind, default) for field, kind, default in fields_of(obj)}
    shown: list[str] = []
    for model in models_of(obj):
        own = {field: text for field, text in own_descriptions(model).items() if field in kinds}
        if own and model is not obj:
            shown += [f"From :class:`~{model.__module__}.{model.__qualname__}`:", ""]
        for field, text in own.items():
            kind, default = kinds.pop(field)
            shown += [
                f".. py:attribute:: {field}",
                f"   :type: {kind}",
                *([f"   :value: {default}"] if default else []),
            ]
            shown += ["   :no-contents-entry:", "", *(f"   {line}" for line in text), ""]
    if kinds:
        raise ExtensionError(f"{name} has settings that no docstring describes: {', '.join(kinds)}")
    begin, end = attributes_section(lines)
    lines[begin - 1 if "Attributes:" in lines else begin : end] = shown


def setup(app: Sphinx) -> dict[str, bool]:
    """Show settings as what they are."""
    app.connect("autodoc-process-signature", show_signature)
    app.connect("autodoc-process-docstring", show_fields, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True}
