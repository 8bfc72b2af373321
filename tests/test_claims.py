"""Figures and claims about other libraries on the site have a file or a source with a date behind them.

Where one has none, or what was read has changed, mend the words, or write into ``docs/measured/claims.toml``:

- ``[[data]]``: the figures of a ``page`` that are in this ``file`` of a benchmark;
- ``[[figure]]``: what a ``page`` ``says``, and the ``source`` of it: an address, a file of the repository,
  that of the page itself where one of its own cells computes and asserts it, ``definition`` where it is set, assumed
  or worked out and not measured, or ``by hand: ...``; and the date when that was ``checked``;
- ``[[library]]``: in how many ``places`` a ``page`` speaks of a library (``name``), by which ``source`` that was
  ``checked``, and when.
"""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import claims
import record
from claims import Block

ROOT = Path(__file__).parent.parent
REGISTER = ROOT / "docs" / "measured" / "claims.toml"
COMPARISON = ROOT / "docs" / "start" / "comparison.json"
PAGES = [page.relative_to(ROOT).as_posix() for page in claims.pages(ROOT)]


@cache
def register() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(REGISTER.read_text(encoding="utf-8"))


@cache
def blocks(page: str) -> list[Block]:
    return [*claims.blocks((ROOT / page).read_text(encoding="utf-8"))]


def entries(kind: str, page: str) -> list[dict[str, Any]]:
    return [entry for entry in register().get(kind, []) if entry["page"] == page]


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_has_a_file_or_a_source(page: str) -> None:
    numbers = [number for entry in entries("data", page) for number in claims.numbers_in(ROOT / entry["file"])]
    sayings = [saying for entry in entries("figure", page) for saying in entry["says"]]
    missing = [
        f"{page}:{block.line}: {figure!r} in {block.text[:100]!r}"
        for block in blocks(page)
        for figure in claims.figures(block)
        if not claims.is_among(figure, numbers)
        and not any(figure in saying and saying in block.text for saying in sayings)
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("page", PAGES)
def test_every_claim_about_another_library_was_checked(page: str) -> None:
    found: dict[str, list[int]] = defaultdict(list)
    for block in blocks(page):
        for name in claims.names(block.text):
            found[name].append(block.line)
    checked = {entry["name"]: entry["places"] for entry in entries("library", page)}
    missing = [
        f"{page} speaks of {name} in {len(lines)} places, lines {lines}, of which {checked.get(name, 0)} were checked"
        for name, lines in found.items()
        if len(lines) != checked.get(name)
    ]
    assert not missing, "\n".join(missing)
    assert not checked.keys() - found, f"{page} does not speak of {checked.keys() - found} any more: take it out"


def test_the_register_is_of_what_is_there() -> None:
    for entry in register()["figure"]:
        page = entry["page"]
        assert page in PAGES, f"{page} is no page of the site"
        for says in entry["says"]:
            is_there = any(says in block.text for block in blocks(page))
            assert is_there, f"{page} does not say {says!r} any more: take it out"
    for entry in register()["data"]:
        assert entry["page"] in PAGES, f"{entry['page']} is no page of the site"
        told = [figure for block in blocks(entry["page"]) for figure in claims.figures(block)]
        numbers = claims.numbers_in(ROOT / entry["file"])
        assert any(claims.is_among(figure, numbers) for figure in told), (
            f"{entry} has no figure of the page: take it out"
        )


@pytest.mark.parametrize("kind", ["figure", "library"])
def test_sources_are_dated_and_there(kind: str) -> None:
    for entry in register()[kind]:
        source = entry["source"]
        assert isinstance(entry["checked"], datetime.date), f"{entry} has no date"
        if source == "definition" or source.startswith(("https://", "by hand: ")):
            continue
        assert (ROOT / source.partition("::")[0]).exists(), f"{source} is no file of the repository"
        if source.endswith((".json", ".jsonl")) and kind == "figure":
            numbers = claims.numbers_in(ROOT / source)
            told = [figure for says in entry["says"] for figure in claims.figures(Block(0, says))]
            assert all(claims.is_among(figure, numbers) for figure in told), f"{source} does not have {entry['says']}"


def test_every_mark_of_the_comparison_has_a_source() -> None:
    facts = json.loads(COMPARISON.read_text(encoding="utf-8"))
    for peer in facts["peers"].values():
        datetime.date.fromisoformat(peer["checked"])
    for claim in facts["claims"]:
        assert claim["cells"].keys() == facts["peers"].keys()
        for name, cell in claim["cells"].items():
            assert cell["verdict"] in ("yes", "partly", "no")
            assert re.fullmatch(r"[^\s].*\.", cell["says"]), (
                f"{claim['claim']}, {name}: {cell['says']!r} is no sentence"
            )
            assert re.fullmatch(r"[\w/.:#-]+", cell["source"]), (
                f"{claim['claim']}, {name}: {cell['source']!r} is no source"
            )
            if name == "anygrpo":
                assert (ROOT / "docs" / cell["source"].partition("#")[0]).exists(), f"{cell['source']} is no page"


@pytest.mark.parametrize("path", sorted(record.DATA.glob("*.json")), ids=lambda path: path.stem)
def test_pages_of_outputs_are_those_of_the_files(path: Path) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    assert (record.RAW / f"{path.stem}.md").read_text(encoding="utf-8") == record.page(told)
    datetime.date.fromisoformat(told["measured"])
    for run in told["runs"]:
        if run["output"]:
            found = record.figures(run["output"], told.get("pattern"))
            assert run["figures"] == ([run["labels"] | each for each in found] if "labels" in run else found)


def test_a_figure_without_a_file_is_found() -> None:
    [heading, block] = claims.blocks("# A page\n\nIt takes `5 s`, or 3.5 s,\n```\n7.5 s\n```\n")
    assert (block.line, claims.figures(block), claims.figures(heading)) == (3, ["3.5 s"], [])
    [row] = [block for block in claims.blocks("| | MiB |\n|---|---|\n| whole | 1,899 |\n") if block.line == 3]
    assert claims.figures(row) == ["1,899"]


def test_what_a_command_wrote_is_not_looked_at() -> None:
    page = "% written by a command\n\n| 3.5 s |\n\n% end of what is written\n\nTRL takes 4.5 s.\n"
    [block] = claims.blocks(page)
    assert (block.line, block.text) == (7, "TRL takes 4.5 s.")
