"""What GRPO reaches in long episodes, by several kinds of credit, beside PPO.

``run`` trains on LunarLander by the named setups with each seed, all with one budget of decisions, and adds a line for
each training to ``long_episodes.jsonl``; a training that is there already, with the same settings, is left out.
``page`` writes the table of ``docs/how-to/long-episodes.md`` from these lines.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro

from grpo_adapters.gym import evaluate
from long_episode_setups import SETUPS, Setup, build, make_environment
from long_episodes_page import write_page
from trainings_file import TrainingsFile
from zoo_contenders import EPISODES, EVALUATION_SEED, thinned

TRAININGS = TrainingsFile(Path(__file__).with_name("long_episodes.jsonl"))
TOLD_AT_THE_END = ("episode_length", "entropy", "num_replayed", "shared_states")


def run(
    names: tyro.conf.Positional[tuple[str, ...]] = tuple(SETUPS),
    seeds: tuple[int, ...] = (0, 1, 2),
    decisions: int = 600_000,
) -> None:
    """Train.

    Args:
        names: of the setups.
        seeds: of a training each.
        decisions: budget of each.
    """
    torch.set_num_threads(1)
    for name, seed in product(names, seeds):
        key = {"name": name, "seed": seed, "budget": decisions, "settings": asdict(SETUPS[name])}
        if TRAININGS.has(key):
            continue
        start = time.process_time()
        outcome = train(SETUPS[name], seed, decisions)
        seconds = round(time.process_time() - start)
        TRAININGS.add(key | outcome | {"processor_seconds": seconds})
        print(f"{name}, seed {seed}: {outcome['final']:.2f} in {seconds} s", flush=True)


def page() -> None:
    """Write the table."""
    write_page(TRAININGS.lines())


def train(setup: Setup, seed: int, budget: int) -> dict[str, Any]:
    """Decisions that were learnt from, the final greedy return, and the curve of the training."""
    trainer, states = build(setup, seed)
    decisions, curve, step = 0, [], 0
    metrics: dict[str, float] = {}
    while decisions < budget:
        metrics = trainer.step(states(step))
        step += 1
        decisions += int(metrics["num_decisions"])
        if "episode_return" in metrics:
            curve.append((decisions, metrics["episode_return"]))
    final = evaluate(trainer.policy, make_environment, EPISODES, seed=EVALUATION_SEED).mean
    told = {name: metrics[name] for name in TOLD_AT_THE_END if name in metrics}
    return {"decisions": decisions, "steps": step, "final": final, "curve": thinned(curve)} | told


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "page": page}, description=__doc__)
