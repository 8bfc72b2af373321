"""Pages of Learn keep their form: words, pseudocode, a figure, ten lines to run, and exercises that are solved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

LEARN = Path(__file__).parent.parent / "docs" / "learn"
PAGES = sorted(page.stem for page in LEARN.glob("*.md") if page.stem not in {"index", "comparison"})
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?P<options>(?::[^\n]*\n)*)(?P<code>.*?)^```\n", re.M | re.S)
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
SOLUTION = re.compile(r"^<details>\n<summary>Solution \d+</summary>\n(?P<body>.*?)^</details>$", re.M | re.S)
WORDS_A_MINUTE = 120  # as docs/learn/index.md says
HIDDEN = ("hide-input", "remove-input", "hide-cell", "remove-cell")


@dataclass(frozen=True)
class Cell:
    """Code that runs when the site is built, and whether a reader sees it at once."""

    code: str
    visible: bool


def cells(text: str) -> list[Cell]:
    """All cells of a page, or of a part of it."""
    found = CELL.finditer(text)
    return [Cell(own["code"], not any(tag in own["options"] for tag in HIDDEN)) for own in found]


def shown(text: str) -> str:
    """What a reader sees with solutions and hidden cells closed; visible cells are left out too."""
    return CELL.sub("", SOLUTION.sub("", FRONT_MATTER.sub("", text)))


def num_lines(text: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in text.splitlines())


def section(text: str, title: str) -> str:
    """From a heading of the second level to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found is not None, f"no section '## {title}'"
    return found[1]


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    return (LEARN / f"{request.param}.md").read_text()


def test_it_has_pseudocode_in_a_box(page: str) -> None:
    boxes = re.findall(r"^```\{admonition\} Pseudocode: \S[^\n]*\n:class: pseudocode\n\n(.*?)^```$", page, re.M | re.S)
    assert boxes
    assert all(num_lines(box) >= 3 for box in boxes)


def test_every_figure_is_told_in_words(page: str) -> None:
    figures = [call for cell in cells(page) for call in re.split(r"^show\(", cell.code, flags=re.M)[1:]]
    assert figures
    for call in figures:
        assert re.search(r"\balt=\[\s*f?\"[^\"]{30,}", call), call
        assert re.search(r"\bcaption=f?\"[^\"]{20,}", call), call


def test_no_drawing_is_seen(page: str) -> None:
    visible = [cell.code for cell in cells(SOLUTION.sub("", page)) if cell.visible]
    drawing = [code for code in visible if re.search(r"\bplt\.|\bpyplot\b|\bpanels\(|^show\(", code, re.M)]
    assert not drawing


def test_it_has_lines_to_run(page: str) -> None:
    own = [cell for cell in cells(section(page, "Ten lines to run")) if cell.visible]
    assert own
    assert len(section(page, "Where it breaks").split()) >= 30


def test_every_exercise_has_a_solution_that_is_checked(page: str) -> None:
    exercises = section(page, "Exercises")
    solutions = SOLUTION.findall(exercises)
    assert len(solutions) >= 3
    assert len(solutions) == len(re.findall(r"^\*\*\d+\.\*\* ", exercises, re.M))
    for solution in solutions:
        assert any(re.search(r"^\s*assert ", cell.code, re.M) for cell in cells(solution)), solution


def test_at_most_a_third_of_what_is_seen_is_code(page: str) -> None:
    code = sum(num_lines(cell.code) for cell in cells(SOLUTION.sub("", page)) if cell.visible)
    words = num_lines(shown(page))
    assert code <= (code + words) / 3


def test_the_map_leads_to_every_page_in_the_order_of_the_sidebar() -> None:
    toctree = re.findall(r"^learn/(\S+)$", (LEARN.parent / "index.md").read_text(), re.M)
    assert toctree[0] == "index"
    assert set(PAGES) <= set(toctree)
    assert re.findall(r"^1\. \[\]\((\S+)\.md\), ", (LEARN / "index.md").read_text(), re.M) == toctree[1:]


@pytest.mark.parametrize("name", [*PAGES, "comparison"])
def test_the_map_tells_how_long_a_page_takes(name: str) -> None:
    told = re.search(rf"^1\. \[\]\({name}\.md\), (\d+) minutes\.", (LEARN / "index.md").read_text(), re.M)
    assert told is not None
    minutes = len(shown((LEARN / f"{name}.md").read_text()).split()) / WORDS_A_MINUTE
    assert abs(int(told[1]) - minutes) <= max(1.5, 0.2 * minutes), f"{name} takes {minutes:.1f} minutes"
