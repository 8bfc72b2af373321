"""The API reference can be read: signatures as one writes them, ranges of settings, a list at the head of a page."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from command_reference import entry_of, options_and_values
from docutils.core import publish_doctree
from docutils.parsers.rst.roles import register_local_role
from public_names import escape_shapes, public_names
from pydantic_core import PydanticUndefined
from readable_signatures import require_readable, show_signature
from setting_ranges import ranges_of
from sphinx.errors import ExtensionError
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.testing.util import SphinxTestApp
from sphinx.util.inspect import signature, stringify_signature

from grpo import GRPOConfig, ImportanceCorrection, LinearSchedule, ReferenceSync, TrainerConfig, UpdateConfig
from grpo_adapters.cli.command import COMMANDS
from grpo_adapters.huggingface import SamplingConfig
from settings_reference import Setting, settings_of

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page for page in (DOCS / "reference").rglob("*.md") if "eval-rst" in page.read_text())


def setting(model: Any, name: str) -> Setting:
    return next(found for found in settings_of(model) if found.name == name)


def test_a_setting_has_type_default_and_range_as_one_writes_them() -> None:
    clip = setting(GRPOConfig, "clip_low")
    assert clip.kind.replace("~grpo.config.schedules.", "") == "float | LinearSchedule"
    assert clip.default == "0.2"
    assert clip.lines()[0] == "``0 ≤ clip_low ≤ 1``, at both ends of a schedule too:"
    assert setting(GRPOConfig, "device").lines() == setting(GRPOConfig, "device").text
    assert setting(GRPOConfig, "learning_rate").default == "1e-3"
    assert setting(GRPOConfig, "kl_estimator").kind.endswith('Literal["k1", "k2", "k3"]')


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        (ReferenceSync, "mixing", ["0 < mixing ≤ 1"]),
        (LinearSchedule, "num_steps", ["num_steps ≥ 1"]),
        (UpdateConfig, "seed", ["0 ≤ seed < 2**63"]),
        (UpdateConfig, "max_grad_norm", ["max_grad_norm > 0"]),
        (UpdateConfig, "device", []),
        (TrainerConfig, "loss_averaging", ["loss_averaging ≥ 1, as int"]),
        (TrainerConfig, "target_kl", ["target_kl > 0"]),
        (ImportanceCorrection, "max_ratio", ["max_ratio ≥ 1"]),
        (SamplingConfig, "stop_strings", ["each not empty"]),
    ],
)
def test_ranges_are_those_that_values_are_checked_by(model: Any, name: str, words: list[str]) -> None:
    model.model_rebuild()
    field = model.model_fields[name]
    assert list(ranges_of(name, field.annotation, field.metadata)) == words


def test_own_settings_come_first_and_inherited_ones_with_their_class() -> None:
    found = settings_of(GRPOConfig)
    assert {each.name for each in found} == set(GRPOConfig.model_fields)
    owners = [each.described_by for each in found]
    in_order = [owner for owner, _ in groupby(owners)]
    assert in_order == [GRPOConfig, TrainerConfig, UpdateConfig]
    assert [each.name for each in found[:3]] == ["clip_low", "clip_high", "dual_clip"]


def test_no_signature_shows_what_only_python_needs() -> None:
    names = [name for name, thing in public_names() if callable(thing)]
    assert {"grpo.GRPOConfig", "grpo_adapters.gym.Rollout"} <= set(names)
    for name, thing in public_names():
        if not callable(thing) or (isinstance(thing, type) and issubclass(thing, Exception)):
            continue
        what = "class" if isinstance(thing, type) else "function"
        written = stringify_signature(signature(thing), show_return_annotation=False)
        shown = show_signature(None, what, name, thing, None, written, None)  # type: ignore[arg-type]
        assert shown is not None
        named = re.sub(r"<(?:function|built-in method) (\w+)[\w ]*>", r"\1", shown[0])  # as autodoc does
        require_readable(named.replace("~", ""))


@pytest.mark.parametrize(
    "bad", ["(a: Annotated[int, 3])", "(a = <factory>)", "(f = <function f at 0x7f>)", "(a: ~T)", "(a: grpo._own.T)"]
)
def test_a_signature_that_shows_it_is_refused(bad: str) -> None:
    with pytest.raises(ExtensionError, match="not as one writes it"):
        require_readable(bad)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS / "reference")))
def test_a_page_begins_with_what_it_is_for_and_where_it_is_used(page: Path) -> None:
    _, first, *_ = page.read_text().split("\n\n")
    assert len(re.findall(r"[.;:]", re.sub(r"\(.*?\)|`.*?`", "", first))) >= 2
    assert re.search(r"\]\(|\{doc\}|\{ref\}", first)


def test_the_head_of_a_page_lists_what_is_on_it(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "conf.py").write_text('extensions = ["reference_contents"]\nroot_doc = "reference/page"\n')
    (tmp_path / "reference" / "page.rst").write_text(
        "Page\n====\n\nWords.\n\nPart\n----\n\n"
        ".. py:class:: One\n\n   The first.\n\n   More.\n\n   .. py:method:: inner\n\n"
        ".. py:function:: two()\n\n   The second.\n"
    )
    app = SphinxTestApp("dummy", srcdir=tmp_path)
    app.build()
    page = app.env.get_doctree("reference/page")
    app.cleanup()
    lines = [item.astext() for item in page.findall() if item.tagname == "list_item"]
    assert lines == ["One: The first.", "two: The second."]
    assert [link["refid"] for link in page.findall() if link.tagname == "reference"] == ["One", "two"]


def test_options_have_the_defaults_that_a_call_without_them_has() -> None:
    options, values = options_and_values("train gym ENVIRONMENT --algorithm grpo")
    assert set(values) == set(options.model_fields) == {each.name for each in settings_of(options)}
    assert values["until_decisions"] == 500_000
    assert values["environment"] is PydanticUndefined
    assert entry_of(setting(options, "environment"), options, PydanticUndefined)[0] == ".. option:: ENVIRONMENT"
    entry = entry_of(setting(options, "hidden_sizes"), options, values["hidden_sizes"])
    assert entry[0] == ".. option:: --hidden-sizes 64 64"
    assert entry[2] == "   ``tuple[int, ...]``, ``each ≥ 1``:"


def test_the_reference_has_every_command() -> None:
    pages = "".join(page.read_text() for page in (DOCS / "reference" / "command").glob("*.md"))
    assert set(re.findall(r"`anygrpo (\w+) ", pages)) == set(COMMANDS)
    shown = re.findall(r"options-of:: (?:train (\w+)|[\w.]+\.(\w+)Options)", pages)
    assert len(shown) == 3 + 2 + len(COMMANDS) - 1


def docstrings() -> Iterator[tuple[str, str]]:
    """All that the reference shows of each public object."""
    for name, value in public_names():
        described = {name: value}
        if inspect.isclass(value):
            own = {part: member for part, member in vars(value).items() if not part.startswith("_")}
            described |= {f"{name}.{part}": member for part, member in own.items() if not inspect.isclass(member)}
        for place, documented in described.items():
            text = inspect.getdoc(documented)
            if text and not isinstance(documented, str | int | float | dict | list | tuple):
                yield place, text


def complaints_about(text: str) -> str:
    """What docutils says of a docstring, where roles of Sphinx's are known."""
    for role in ("class", "func", "meth", "attr", "mod", "data", "exc", "doc", "ref"):
        register_local_role(role, lambda *arguments, **options: ([], []))
    config: Any = Config(napoleon_use_ivar=True)
    rest = str(GoogleDocstring([escape_shapes(line) for line in text.splitlines()], config))
    stream = io.StringIO()
    publish_doctree(rest, settings_overrides={"warning_stream": stream, "report_level": 2, "halt_level": 5})
    return stream.getvalue()


def test_docstrings_are_text_that_the_site_can_show() -> None:
    assert "Undefined substitution" in complaints_about("Spread |R - median(R)| of a group.")
    assert {name: found for name, text in docstrings() if (found := complaints_about(text))} == {}


def test_each_public_name_has_an_entry_in_the_reference() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    entries, types = re.findall(r"auto\w+:: ([\w.]+)", pages), re.findall(r"py:type:: (\w+)", pages)
    told = {*entries, *(f"grpo_adapters.tracking.{name}" for name in types)}
    assert [name for name, _ in public_names() if name not in told] == []
