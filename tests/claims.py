"""What the documentation says in words of figures and of other libraries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARIES = {
    "TRL": r"TRL",
    "verl": r"verl",
    "Stable-Baselines3": r"Stable-Baselines3|SB3|sb3-contrib|rl-zoo3",
    "CleanRL": r"CleanRL",
    "TorchRL": r"TorchRL",
    "OpenRLHF": r"OpenRLHF",
    "RLlib": r"RLlib",
    "vLLM": r"vLLM",
    "SGLang": r"SGLang",
    "EnvPool": r"EnvPool",
}
NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
UNIT = r"(?:\s?%|\s(?:times|s|seconds?|ms|µs|minutes?|hours?|[kKMGT]i?B|nats|steps a second|tokens a second)\b)"
MULTIPLE = (
    r"(?:twice|(?:two|three|four|five|six|seven|eight|nine|ten|twenty|fifty|a hundred|a thousand|several) times)"
    r"(?= (?:as|the(?! same)|what|that|more|less|faster|slower)\b)"
)
PART = r"(?:a|one|two|three) (?:half|third|quarter|fifth|sixth|eighth|tenth|twentieth|fiftieth|hundredth)s? of\b"
FIGURE = re.compile(
    rf"(?<![\w.,])(?:{NUMBER}(?:\s(?:to|and|or)\s{NUMBER})?{UNIT}|\d+\.\d+(?:e-?\d+)?(?![\w.]))|\b{MULTIPLE}|\b{PART}"
)
NO_FIGURE = re.compile(
    r"(?:Python|PyTorch|transformers|gymnasium|TRL|vLLM|Stable-Baselines3|RecurrentPPO|EnvPool|CUDA|version)"
    r" (?:\d+\.)+\w+"
    r"|\d{4}\.\d{4,5}"  # of arXiv
    r"|95% (?:confidence )?interval|interval of 95%"
)
MEASURED = re.compile(r"\b(?:[KMG]i?B|s|ms|seconds?|time|a second|return|regret)\b")
CELL = re.compile(r"(?<![\w.])\d[\d,]*[.,]\d+")
FENCE = re.compile(r"^ *(`{3,}|:{3,}|~{3,})(?P<info>.*)$")
PROSE_DIRECTIVES = ("{admonition}", "{note}", "{warning}", "{tip}", "{important}")
GENERATED = re.compile(
    r"^% written by.*?^% end of what is written|^<!-- families -->.*?^<!-- /families -->", re.MULTILINE | re.DOTALL
)
NOT_WORDS = re.compile(r"``.+?``|`[^`]*`|\$\$.+?\$\$|\$[^$]+\$|\]\([^)]*\)|\{[\w:+-]+\}|<[^>]+>|https?://\S+")


@dataclass(frozen=True)
class Block:
    """A paragraph, a point of a list or a row of a table.

    Attributes:
        line: where it begins.
        text: its words, without code, formulas and addresses, on one line.
        is_measured: whether it is a row of a table whose head has a unit of a measure.
    """

    line: int
    text: str
    is_measured: bool = False


def blocks(page: str) -> Iterator[Block]:
    """The words of a page of Markdown, without what a command has written or a cell shows."""
    lines = without_code(GENERATED.sub(lambda found: "\n" * found[0].count("\n"), page)).splitlines()
    words: list[str] = []
    begin, head = 0, ""
    for number, line in enumerate([*lines, ""], 1):
        begins = re.match(r"\s*(?:[-*>#|]|\d+\.)\s?", line)
        if (not line.strip() or begins) and words:
            yield Block(begin, NOT_WORDS.sub(" ", " ".join(words)), bool(MEASURED.search(head)))
            words = []
        head = (head or line) if line.startswith("|") else ""
        if line.strip():
            begin = begin if words else number
            words.append(line.strip())


def without_code(page: str) -> str:
    """The page without blocks of code, comments and its head, with as many lines."""
    kept: list[str] = []
    fences: list[tuple[str, bool]] = []
    lines = page.splitlines()
    head = lines.index("---", 1) if lines[:1] == ["---"] else -1
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence and fences and not fence["info"].strip() and fence[1] >= fences[-1][0]:
            fences.pop()
            line = ""
        elif fence and (not fences or fences[-1][1]):
            fences.append((fence[1], fence["info"].strip().startswith(PROSE_DIRECTIVES)))
            line = ""
        is_words = number > head and not line.startswith("%") and all(is_prose for _, is_prose in fences)
        kept.append(line if is_words else "")
    return "\n".join(kept)


def figures(block: Block) -> list[str]:
    """Measured figures: what has a unit or decimals, multiples and parts that are spelt, and cells of measures.

    >>> figures(Block(1, "It takes 0.5 s, twice what 3 of Python 3.11 take, and 20% more."))
    ['0.5 s', 'twice', '20%']
    >>> figures(Block(1, "| all logits | 6,355 |", is_measured=True))
    ['6,355']
    """
    text = NO_FIGURE.sub(" ", block.text)
    found = [each[0] for each in FIGURE.finditer(text)]
    return found + CELL.findall(FIGURE.sub(" ", text)) if block.is_measured else found


def names(text: str) -> set[str]:
    """Other libraries that a text speaks of.

    >>> sorted(names("As TRL and SB3 do"))
    ['Stable-Baselines3', 'TRL']
    """
    return {name for name, pattern in LIBRARIES.items() if re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", text)}


def pages(root: Path) -> list[Path]:
    """The pages that are looked at: the site's, without those that a command has written, and those beside the code."""
    site = sorted((root / "docs").rglob("*.md"))
    project = [root / name for name in ("README.md", "CONTRIBUTING.md", "ROADMAP.md", "SECURITY.md")]
    return [*project, *(page for page in site if not {"raw", "project", "_build"} & set(page.parts))]


def numbers_in(path: Path) -> list[float]:
    """All numbers of a file of JSON, or of lines of JSON."""
    text = path.read_text(encoding="utf-8")
    values = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [*numbers_of(values)]


def numbers_of(value: Any) -> Iterator[float]:
    """The numbers in a value of JSON, also those in its texts."""
    if isinstance(value, dict):
        yield from numbers_of([*value, *value.values()])
    elif isinstance(value, list):
        for each in value:
            yield from numbers_of(each)
    elif isinstance(value, str):
        yield from (float(each.replace(",", "")) for each in re.findall(NUMBER, value))
    elif isinstance(value, int | float):
        yield abs(float(value))


def is_among(figure: str, numbers: Iterable[float]) -> bool:
    """Whether the numbers, rounded as the figure is, have all that it is made of; percents may be shares there.

    >>> is_among("2.19", [2.185]), is_among("84%", [0.8412]), is_among("2.20", [2.185])
    (True, True, False)
    """
    told = re.findall(NUMBER, figure)
    return bool(told) and all(any(rounds_to(each, number, "%" in figure) for number in numbers) for each in told)


def rounds_to(told: str, number: float, is_percent: bool) -> bool:
    """Whether a number is what is told, to its last digit."""
    digits, _, exponent = told.replace(",", "").partition("e")
    step = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    candidates = (number, 100 * number) if is_percent else (number,)
    return any(abs(float(told.replace(",", "")) - each) <= 0.5001 * step for each in candidates)
