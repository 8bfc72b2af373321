"""Signatures in the API reference as one writes them, without what only Python needs to know."""

import re
from dataclasses import is_dataclass
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.inspect import signature as signature_of
from sphinx.util.inspect import stringify_signature
from typing_extensions import is_protocol

from settings_reference import own_defaults, signature_of_settings

UNREADABLE = re.compile(
    r"Annotated\[|FieldInfo|Pydantic|<(?:factory|function|class|lambda|built-in)|typing_extensions|ForwardRef|~\w"
    r"| at 0x|\._\w|\blambda\b.*:|T_co\b|T_contra\b"
)


def show_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """The fields of settings as arguments, none for a protocol, and defaults as they are written."""
    if signature is None:
        return None
    if isinstance(obj, type) and issubclass(obj, BaseModel):
        signature = signature_of_settings(obj)
    elif isinstance(obj, type) and is_protocol(obj):
        signature = ""
    elif isinstance(obj, type) and is_dataclass(obj):
        signature = signature_of_dataclass(obj)
    return as_written(signature), None if returns is None else as_written(returns)


class Written:
    """A default that a signature shows as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature_of_dataclass(kind: type) -> str:
    """Its arguments with their defaults as its body, or a base's, has them."""
    bases = [base for base in reversed(kind.__mro__) if "__dataclass_fields__" in vars(base)]
    written = {name: default for base in bases for name, default in own_defaults(base).items()}
    signature = signature_of(kind)
    arguments = [
        argument if argument.default is argument.empty else argument.replace(default=Written(written[argument.name]))
        for argument in signature.parameters.values()
    ]
    shown = signature.replace(parameters=arguments, return_annotation=signature.empty)
    return stringify_signature(shown, unqualified_typehints=True)


def as_written(signature: str) -> str:
    """Arrays of numpy by their name in annotations, and variables of types without what only a checker reads."""
    any_shape = r"~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[(.*?)\]\]"
    return re.sub(r"T_(?:contra|co)\b", "T", re.sub(any_shape, r"NDArray[\1]", signature))


def tidy_quotes(app: Sphinx, domain: str, objtype: str, node: addnodes.desc_content) -> None:
    """One kind of quotation marks in signatures, which must be as one writes them."""
    signatures = list(node.parent.findall(addnodes.desc_signature))
    for text in [text for signature in signatures for text in signature.findall(nodes.Text)]:
        tidy = re.sub(r"^'([^'\"\\]*)'$", r'"\1"', text)
        if tidy != text:
            text.parent.replace(text, nodes.Text(tidy))
    if domain == "py":
        require_readable(*(signature.astext() for signature in signatures))


def require_readable(*signatures: str) -> None:
    """Raise an ExtensionError if a signature shows what only Python needs to know."""
    for signature in signatures:
        if found := UNREADABLE.search(signature):
            raise ExtensionError(f"a signature of the reference is not as one writes it, see {found[0]!r}: {signature}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Show signatures as one writes them."""
    app.connect("autodoc-process-signature", show_signature)
    app.connect("object-description-transform", tidy_quotes)
    return {"parallel_read_safe": True}
