"""The table of ``docs/measured/zoo.md``, from the lines of ``zoo.jsonl``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grpo_adapters.cli.gym_presets import zoo_files
from grpo_adapters.cli.toml_files import read_toml

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "% written by tests/benchmarks/zoo.py page", "% end of what is written"
CONTENDERS = ("anygrpo", "Stable-Baselines3")
NOT_RUN = "not run here"
REPETITIONS = 20_000
Line = Mapping[str, Any]


def write_page(lines: Sequence[Line]) -> None:
    """Put the table in its place on the page."""
    page = DOCS / "measured" / "zoo.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(lines)}\n\n{END}{after}", encoding="utf-8")


def table(lines: Sequence[Line]) -> str:
    """A row for each settings of the zoo and number of decisions, those that were run before the others."""
    rows = ["| settings | decisions | anygrpo | Stable-Baselines3 | environment |", "|---|---:|---:|---:|---|"]
    not_run: list[str] = []
    for name, path in zoo_files().items():
        settings = read_toml(path)
        own = [line for line in lines if line["name"] == name]
        budgets = sorted({line["settings"]["until_decisions"] for line in own}, key=lambda number: number or 0)
        for budget in budgets or [settings.get("until_decisions")]:
            same = [line for line in own if line["settings"]["until_decisions"] == budget]
            cells = [figure(same, contender, settings["algorithm"]) for contender in CONTENDERS]
            row = f"| `{name}` | {decisions(budget, same)} | {' | '.join(cells)} | {settings['environment']} |"
            (rows if own else not_run).append(row)
    return "\n".join(rows + not_run)


def decisions(budget: int | None, lines: Sequence[Line]) -> str:
    """The decisions that were asked for, or those that so many steps came to."""
    if budget is not None:
        return f"{budget:,}"
    return " to ".join(
        f"{number:,}" for number in sorted({line["decisions"] for line in lines})[:: max(1, len(lines) - 1)]
    )


def figure(lines: Sequence[Line], contender: str, algorithm: str) -> str:
    """The interquartile mean over seeds with its interval."""
    if contender != "anygrpo" and algorithm != "ppo":
        return "has none"
    returns = [line["final"] for line in lines if line["contender"] == contender]
    if not returns:
        return NOT_RUN
    mean, low, high = interval(returns)
    return f"**{told(mean)}** [{told(low)}, {told(high)}]".replace(" ", "\N{NO-BREAK SPACE}")


def told(number: float) -> str:
    """A return with as many digits as matter."""
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"


def interval(returns: Sequence[float]) -> tuple[float, float, float]:
    """The interquartile mean, and its interval of 95% by stratified bootstrap over the seeds."""
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from rliable import library, metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of arch, at the only way that rliable has to give a seed
        means, bounds = library.get_interval_estimates(
            {"": np.array(returns)[:, None]},
            lambda scores: np.array([metrics.aggregate_iqm(scores)]),
            reps=REPETITIONS,
            random_state=np.random.RandomState(0),
        )
    return float(means[""][0]), float(bounds[""][0, 0]), float(bounds[""][1, 0])
