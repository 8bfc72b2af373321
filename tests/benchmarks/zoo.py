"""What is reached with the settings of the zoo, beside Stable-Baselines3 with the same settings and budget.

``run`` trains by the named settings with each seed and adds a line for each training to ``zoo.jsonl``; a training that
is there already, with the same settings, is left out. ``page`` writes the table of ``docs/zoo.md`` from these lines.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro

from zoo_contenders import options_of, ours, theirs
from zoo_page import write_page

RESULTS = Path(__file__).with_name("zoo.jsonl")
CONTENDERS = {"anygrpo": ours, "Stable-Baselines3": theirs}


def run(
    names: tyro.conf.Positional[tuple[str, ...]],
    seeds: tuple[int, ...] = (0, 1, 2),
    contenders: tuple[str, ...] = tuple(CONTENDERS),
    decisions: int | None = None,
) -> None:
    """Train.

    Args:
        names: settings of the zoo.
        seeds: of a training each.
        contenders: who trains.
        decisions: another budget than that of the settings.
    """
    torch.set_num_threads(1)
    budget = () if decisions is None else ("--until-decisions", str(decisions))
    for name, seed, contender in product(names, seeds, contenders):
        options = options_of(name, seed, *budget)
        key = {"name": name, "seed": seed, "contender": contender, "settings": settings_of(options)}
        if any(line.items() >= key.items() for line in results()):
            continue
        start = time.perf_counter()
        outcome = asdict(CONTENDERS[contender](options))
        seconds = round(time.perf_counter() - start)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(key | outcome | {"seconds": seconds}) + "\n")
        print(f"{name}, seed {seed}, {contender}: {outcome['final']:.2f} in {seconds} s", flush=True)


def page() -> None:
    """Write the table."""
    write_page(results())


def settings_of(options: Any) -> dict[str, Any]:
    """What decides on a training but its seed, as JSON takes it."""
    left_out = {
        "seed",
        "folder",
        "num_threads",
        "trackers",
        "evaluate_every",
        "checkpoint_every",
        "evaluation_episodes",
    }
    settings: dict[str, Any] = options.model_dump(mode="json", exclude=left_out)
    return settings


def results() -> list[dict[str, Any]]:
    """The lines of the trainings so far."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "page": page}, description=__doc__)
