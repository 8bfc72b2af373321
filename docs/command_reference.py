"""Options of the command ``anygrpo`` in the reference, from the settings that ``--help`` is made of."""

import pkgutil
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import tyro
from docutils import nodes
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from grpo_adapters.cli.kinds import kind_called
from settings_reference import Setting, settings_of

TITLES = {"RunOptions": "Of any run", "GymOptions": "Of any environment"}


def on_the_command_line(value: Any) -> str:
    """A value as it is given to an option.

    Example:
        >>> on_the_command_line((64, 64)), on_the_command_line(None), on_the_command_line(())
        ('64 64', 'None', '')
    """
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def entry_of(setting: Setting, options: type[BaseModel], value: Any) -> list[str]:
    """An option with its default behind it, in reStructuredText; what is required has its name there."""
    name = setting.name.upper()
    shown = name if value is PydanticUndefined else on_the_command_line(value)
    is_positional = tyro.conf.Positional in options.model_fields[setting.name].metadata
    called = name if is_positional else f"--{setting.name.replace('_', '-')} {shown}"
    kind = re.sub(r"~?(?:\w+\.)+", "", setting.kind)
    return [f".. option:: {called}", "", *(f"   {line}" for line in setting.lines(f"``{kind}``")), ""]


def options_and_values(called: str) -> tuple[type[BaseModel], Mapping[str, Any]]:
    """The settings behind a command with the values that they have where no option is given.

    Args:
        called: the words of a training, ``train gym ENVIRONMENT``, or the path of a class, for another command.
    """
    if called.startswith("train "):
        _, name, *rest = called.split()
        parsed = kind_called(name).parse(rest)
        required = {field for field, info in type(parsed).model_fields.items() if info.is_required()}
        return type(parsed), {field: PydanticUndefined if field in required else value for field, value in parsed}
    options = pkgutil.resolve_name(called)
    return options, {field: info.default for field, info in options.model_fields.items()}


class OptionsOf(SphinxDirective):
    """The options of a command, ``.. options-of:: train gym ENVIRONMENT``, a section for each class of settings."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Entries of its own options, then sections of those that it shares with others."""
        options, values = options_and_values(self.arguments[0])
        return list(self._parts(options, values))

    def _parts(self, options: type[BaseModel], values: Mapping[str, Any]) -> Iterator[nodes.Node]:
        for owner, settings in groupby(settings_of(options), key=lambda setting: setting.described_by):
            lines = [f".. program:: {options.__name__}", ""]
            for setting in settings:
                lines += entry_of(setting, options, values[setting.name])
            entries = self.parse_text_to_nodes("\n".join(lines))
            if owner is options:
                yield from entries
                continue
            title = TITLES.get(owner.__name__, f"Of {owner.__name__}")
            yield nodes.section("", nodes.title("", title), *entries, ids=[nodes.make_id(title)])


def setup(app: Sphinx) -> dict[str, bool]:
    """Let pages list options."""
    app.add_directive("options-of", OptionsOf)
    return {"parallel_read_safe": True}
