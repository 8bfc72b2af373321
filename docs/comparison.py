"""The table beside other libraries, from ``start/comparison.json``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from IPython.display import Markdown, display

FILE = Path(__file__).parent / "start" / "comparison.json"


@cache
def facts() -> dict[str, Any]:
    """The libraries with version and date, and the claims with a verdict and a source for each library."""
    return json.loads(FILE.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def source(peer: str, cell: dict[str, str], folder: str) -> str:
    """The address of what a verdict rests on; a page of this site as seen from a folder of it."""
    if peer == "anygrpo":
        return str(Path(*[".."] * len(Path(folder).parts), cell["source"]))
    return cell["source"] if cell["source"].startswith("https://") else facts()["peers"][peer]["files"] + cell["source"]


def table(*, short: bool = False, folder: str = "start") -> None:
    """Show what each library has, each verdict linked to what it rests on.

    Args:
        short: only the claims by which most decide.
        folder: of the page that shows it, below ``docs``; ``""`` for the first page.
    """
    rows = [" | ".join(["", *facts()["peers"]]), "|".join(["---"] * (len(facts()["peers"]) + 1))]
    for claim in facts()["claims"]:
        if claim["short"] or not short:
            cells = [f"[{cell['verdict']}]({source(peer, cell, folder)})" for peer, cell in claim["cells"].items()]
            rows.append(" | ".join([claim["claim"], *cells]))
    display(Markdown("\n".join(['<div class="beside">', "", *(f"| {row} |" for row in rows), "", "</div>"])))


def reasons(folder: str = "start") -> None:
    """Show what each verdict says, a part to open for each claim."""
    parts = []
    for claim in facts()["claims"]:
        lines = [
            f"- **{peer}**, {cell['verdict']}. {cell['says']} [Source]({source(peer, cell, folder)})"
            for peer, cell in claim["cells"].items()
        ]
        parts.append("\n".join([f"<details><summary>{claim['claim']}</summary>", "", *lines, "", "</details>"]))
    display(Markdown("\n\n".join(parts)))


def versions() -> None:
    """Show which versions were read, and when."""
    rows = ["| | version | read on |", "|---|---|---|"]
    for name, peer in facts()["peers"].items():
        rows.append(f"| {peer.get('name', name)} | {peer['version']} | {peer['checked']} |")
    display(Markdown("\n".join(rows)))
