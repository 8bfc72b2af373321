"""What the control examples share: a training loop with evaluations, several seeds at once, a table and a figure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import Manager, get_context
from pathlib import Path
from queue import Queue
from typing import Any, Protocol

import gymnasium
import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from grpo_adapters.gym import EvaluationResult, GymPolicy, evaluate

EVALUATION_SEED = 1_000_000
FINAL_SEED = 2_000_000
FINAL_EPISODES = 100

Advance = Callable[[float], None]


class Learner(Protocol):
    """Plays and learns from it: a :class:`grpo.Trainer`, or something else with such a step."""

    def step(self, states: list[int], /) -> Mapping[str, float]:
        """Metrics of a step, among them ``num_samples`` and ``num_decisions`` played, and ``num_episodes`` so far."""
        ...


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        seed: of the training.
        steps: environment steps before each evaluation.
        returns: mean return of the greedy policy at each evaluation.
        result: 100 fresh episodes of the greedy policy at the end.
        num_episodes: episodes that were trained on.
        seconds: of the training, without evaluations.
    """

    seed: int
    steps: list[int]
    returns: list[float]
    result: EvaluationResult
    num_episodes: int
    seconds: float

    def steps_to(self, bar: float) -> int | None:
        """Environment steps before the first evaluation that reached the bar; None without one."""
        return next((steps for steps, mean in zip(self.steps, self.returns, strict=True) if mean >= bar), None)


def learn(
    learner: Learner,
    policy: GymPolicy,
    next_states: Callable[[], list[int]],
    environment: gymnasium.Env[Any, Any],
    advance: Advance,
    *,
    seed: int,
    max_steps: int | None = None,
    max_episodes: int | None = None,
    num_evaluations: int = 20,
    episodes_per_evaluation: int = 20,
) -> Run:
    """Train until so many environment steps or episodes are used up, evaluating the greedy policy on the way.

    Args:
        learner: trains ``policy``.
        policy: what is trained.
        next_states: the states of the next step.
        environment: to evaluate in.
        advance: is told the fraction of the training that is done.
        seed: of the training, to note.
        max_steps: environment steps to train for.
        max_episodes: episodes to train for, each a sample.
        num_evaluations: evaluations on the way.
        episodes_per_evaluation: episodes of each.
    """
    budget = max_steps if max_steps is not None else max_episodes
    assert budget is not None
    counter = "num_decisions" if max_steps is not None else "num_samples"
    steps, used, num_episodes, seconds = 0, 0, 0, 0.0
    at_steps: list[int] = []
    returns: list[float] = []
    while used < budget:
        if used >= len(returns) * budget / num_evaluations:
            at_steps.append(steps)
            returns.append(evaluate(policy, environment, episodes_per_evaluation, seed=EVALUATION_SEED).mean)
        start = time.perf_counter()
        metrics = learner.step(next_states())
        seconds += time.perf_counter() - start
        steps += int(metrics["num_decisions"])
        used += int(metrics[counter])
        num_episodes = int(metrics["num_episodes"])
        advance(min(used / budget, 1.0))
    result = evaluate(policy, environment, FINAL_EPISODES, seed=FINAL_SEED)
    return Run(seed, [*at_steps, steps], [*returns, result.mean], result, num_episodes, seconds)


def run_seeds(train: Callable[[int, Advance], Run], num_seeds: int, title: str) -> list[Run]:
    """Train with seeds 0, 1, ... side by side, one process each, and show how far they are."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    workers = min(num_seeds, os.cpu_count() or 1)
    with (
        Manager() as manager,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool,
        Progress(*columns) as progress,
    ):
        messages: Queue[tuple[int, float]] = manager.Queue()
        tasks = [progress.add_task(f"{title}, seed {seed}", total=1.0) for seed in range(num_seeds)]
        runs = [pool.submit(train, seed, partial(_send, messages, seed)) for seed in range(num_seeds)]
        while not all(run.done() for run in runs) or not messages.empty():
            time.sleep(0.1)
            while not messages.empty():
                seed, fraction = messages.get()
                progress.update(tasks[seed], completed=fraction)
        return [run.result() for run in runs]


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _send(messages: Queue[tuple[int, float]], seed: int, fraction: float) -> None:
    messages.put((seed, fraction))


def report(title: str, runs: Mapping[str, Sequence[Run]], bar: float) -> None:
    """Print what was reached, by name of the algorithm."""
    table = Table(title=title)
    for column in ("", "seed", "mean return", "std", f"steps to {bar:g}", "steps", "episodes", "steps/s"):
        table.add_column(column, justify="right" if column else "left")
    for name, own in runs.items():
        for run in own:
            reached = run.steps_to(bar)
            table.add_row(
                name,
                str(run.seed),
                f"{run.result.mean:.1f}",
                f"{run.result.std:.1f}",
                "never" if reached is None else f"{reached:,}",
                f"{run.steps[-1]:,}",
                f"{run.num_episodes:,}",
                f"{run.steps[-1] / run.seconds:,.0f}",
            )
    console = Console()
    console.print(table)
    for name, own in runs.items():
        means = [run.result.mean for run in own]
        console.print(f"{name}: mean over seeds {sum(means) / len(means):.1f}, worst {min(means):.1f}")


def save_learning_curves(path: Path, title: str, runs: Mapping[str, Sequence[Run]], bar: float) -> None:
    """A line for every seed, a colour for every algorithm."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for index, (name, own) in enumerate(runs.items()):
        for run in own:
            label = name if run is own[0] else None
            axes.plot(run.steps, run.returns, color=f"C{index}", alpha=0.8, label=label)
    axes.axhline(bar, color="0.5", linewidth=1, linestyle="--")
    axes.set(title=title, xlabel="environment steps", ylabel="mean return of the greedy policy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    Console().print(f"figure: {path}")
