"""The table of ``docs/how-to/long-episodes.md``, from the lines of ``long_episodes.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from long_episode_setups import SETUPS, TOLD

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "% written by tests/benchmarks/long_episodes.py page", "% end of what is written"
COMMON_BUDGET = 300_000
Line = Mapping[str, Any]


def write_page(lines: Sequence[Line]) -> None:
    """Put the table in its place on the page."""
    page = DOCS / "how-to" / "long-episodes.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(lines)}\n\n{END}{after}", encoding="utf-8")


def table(lines: Sequence[Line]) -> str:
    """A row for each setup and budget."""
    rows = [
        "| setup | compared with | groups × episodes | sampled, after 300,000 | decisions | sampled | greedily |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name, budget in keys_of(lines):
        own = [line for line in lines if (line["name"], line["budget"]) == (name, budget)]
        setup = SETUPS[name]
        groups = "" if setup.starts == "going on" else f"{setup.num_groups} × {setup.group_size}"
        early, late = (mean(after(line["curve"], decisions) for line in own) for decisions in (COMMON_BUDGET, budget))
        finals = [line["final"] for line in own]
        told = f"**{mean(finals):.0f}** ({', '.join(f'{final:.0f}' for final in finals)})"
        rows.append(f"| `{name}` | {TOLD[name]} | {groups} | {early:.0f} | {budget:,} | {late:.0f} | {told} |")
    return "\n".join(rows)


def after(curve: Sequence[tuple[int, float]], decisions: int) -> float:
    """What a curve comes to after so many decisions."""
    learnt_from, returns = np.array(curve).T
    return float(np.interp(decisions, learnt_from, returns))


def keys_of(lines: Sequence[Line]) -> list[tuple[str, int]]:
    """Setups and budgets, the setups in their order."""
    return sorted({(line["name"], line["budget"]) for line in lines}, key=lambda key: ([*SETUPS].index(key[0]), key[1]))
