"""What is reached with the settings of the zoo, beside Stable-Baselines3 with the same settings and budget.

``run`` trains by the named settings with each seed and adds a line for each training to ``zoo.jsonl``; a training that
is there already, with the same settings, is left out. ``page`` writes the table of ``docs/measured/zoo.md`` from them.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro

from trainings_file import TrainingsFile
from zoo_contenders import options_of, ours, theirs
from zoo_page import write_page

TRAININGS = TrainingsFile(Path(__file__).with_name("zoo.jsonl"))
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
        if TRAININGS.has(key):
            continue
        start = time.perf_counter()
        outcome = asdict(CONTENDERS[contender](options))
        seconds = round(time.perf_counter() - start)
        TRAININGS.add(key | outcome | {"seconds": seconds})
        print(f"{name}, seed {seed}, {contender}: {outcome['final']:.2f} in {seconds} s", flush=True)


def page() -> None:
    """Write the table."""
    write_page(TRAININGS.lines())


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


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "page": page}, description=__doc__)
