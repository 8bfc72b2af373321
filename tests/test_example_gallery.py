"""Every example has a card in the gallery, and the page says what its files hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import example_gallery
from example_pictures import PICTURES

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = [card["name"] for card in example_gallery.cards()]
SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}


def imported(source: str) -> set[str]:
    tree = ast.walk(ast.parse(source))
    return {str(node.module) for node in tree if isinstance(node, ast.ImportFrom)}


def test_every_example_has_a_card_or_helps_one_that_has() -> None:
    helpers = set.union(*(imported(source) for source in SCRIPTS.values()))
    for name, source in SCRIPTS.items():
        assert name in NAMES or (name in helpers and "__main__" not in source), name
    assert len(NAMES) == len(set(NAMES))
    page = example_gallery.PAGE.read_text(encoding="utf-8")
    assert all(f"tutorials/{path.name}" in page for path in EXAMPLES.glob("*.ipynb"))


def test_the_page_is_what_its_files_say() -> None:
    page = example_gallery.PAGE.read_text(encoding="utf-8")
    written = f"{example_gallery.BEGIN}\n\n{example_gallery.all_cards()}\n\n{example_gallery.END}"
    assert written in page, "python docs/example_gallery.py page writes it anew"


@pytest.mark.parametrize("card", example_gallery.cards(), ids=lambda card: str(card["name"]))
def test_a_card(card: example_gallery.Card) -> None:
    """Its command runs its script, what was measured is what it says, and its picture is small; or it was not run."""
    name = card["name"]
    assert f"examples/{name}.py" in card["command"]
    assert len(card["alt"].split()) >= 6
    picture = f"docs/_static/examples/{name}.svg"
    told = example_gallery.results().get(name)
    assert (example_gallery.ROOT / picture).exists() == (told is not None)
    if told is not None:
        assert told["command"] == card.get("measured", card["command"])
        assert told["seconds"] > 0
        assert told["checked"]
        assert (example_gallery.ROOT / picture).stat().st_size < 60_000
        assert name in PICTURES or picture in told["command"]


def test_times_have_two_digits_at_the_most() -> None:
    assert [example_gallery.duration(seconds) for seconds in (6.9, 14.6, 51.8, 99.0, 130.0, 3600.0)] == [
        "7 s",
        "15 s",
        "50 s",
        "100 s",
        "2 min",
        "60 min",
    ]
