"""What is public: names that have an entry in the API reference, and what their docstrings say there."""

import importlib
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

PUBLIC_MODULES = [
    "grpo",
    "grpo_adapters.bandit",
    "grpo_adapters.bandit.baselines",
    "grpo_adapters.cli",
    "grpo_adapters.gym",
    "grpo_adapters.huggingface",
    "grpo_adapters.progress",
    "grpo_adapters.tracking",
]


def public_names() -> Iterator[tuple[str, Any]]:
    """Each public object with its name."""
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        for exported in module.__all__:
            yield f"{name}.{exported}", getattr(module, exported)


def escape_shapes(line: str) -> str:
    """Keep the star of a shape such as [n, *shape] from starting an emphasis."""
    return re.sub(r"(?<=[\[ ])\*(?=\w+[,\]])", r"\\*", line)


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = map(escape_shapes, lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Correct docstrings."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
