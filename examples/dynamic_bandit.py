"""GRPO on a bandit whose arms change while it plays, beside the classical strategies.

Every pull moves the means of the arms one step along their path. GRPO decides on a group of pulls at once and then
updates; the others learn from every single pull. What counts is dynamic regret: at each pull, the mean of the arm that
is best at that moment minus the mean of the arm that was pulled, summed up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from grpo import GroupRelative, GRPOConfig, GRPOTrainer, group_centered_advantages
from grpo_adapters.bandit import (
    DynamicBandit,
    GaussianRewards,
    SoftmaxPolicy,
    random_walk_means,
    regret,
    seasonal_means,
    seeded_generator,
    switching_means,
)
from grpo_adapters.bandit.baselines import (
    UCB1,
    DiscountedUCB,
    EpsilonGreedy,
    SlidingWindowUCB,
    Strategy,
    ThompsonSampling,
    play,
)

MEAN_PATHS: dict[str, Callable[..., Tensor]] = {
    "drift": random_walk_means,
    "switches": switching_means,
    "seasons": seasonal_means,
}


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    dynamics: Literal["drift", "switches", "seasons"] = "drift"
    """How the means of the arms change: they walk at random, jump now and then, or follow sines."""
    num_arms: int = 10
    """Arms of the bandit."""
    num_pulls: int = 20_000
    """Pulls in a run."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 20
    """Runs, each with a path of its own."""
    reward_std: float = 1.0
    """Standard deviation of the rewards around the mean of their arm."""
    group_size: int = 8
    """Pulls of GRPO between two updates."""
    learning_rate: float = 0.1
    """Learning rate of GRPO."""
    entropy_coefficient: float = 0.2
    """Weight of GRPO's entropy bonus: what keeps it exploring, in units of the reward."""
    memory: int = 2000
    """Pulls that discounted and sliding-window UCB remember."""
    output: Path = Path("outputs")
    """Folder for the figure."""


@dataclass(frozen=True)
class Run:
    """One run of GRPO.

    Attributes:
        regret: of each pull, [T].
        probabilities: of the arms at each update, [T / group size, K].
    """

    regret: Tensor
    probabilities: Tensor


def mean_path(options: Options, seed: int) -> Tensor:
    """Means of the arms at each pull, [T, K]."""
    return MEAN_PATHS[options.dynamics](options.num_pulls, options.num_arms, seed=seed)


def run_grpo(options: Options, seed: int) -> Run:
    """GRPO from the first pull to the last."""
    torch.set_num_threads(1)
    policy = SoftmaxPolicy(options.num_arms, generator=seeded_generator("policy", seed))
    bandit = DynamicBandit(mean_path(options, seed), GaussianRewards(options.reward_std), seed=seed)
    trainer = GRPOTrainer(
        GRPOConfig(
            group_size=options.group_size,
            learning_rate=options.learning_rate,
            entropy_coefficient=options.entropy_coefficient,
        ),
        policy,
        bandit,
        # Rewards of one arm differ by noise alone; scaling by their spread would blow that noise up.
        advantage_estimator=GroupRelative(group_centered_advantages),
    )
    probabilities = []
    for _ in range(options.num_pulls // options.group_size):
        probabilities.append(policy.probabilities())
        trainer.step(["the only state"])
    return Run(bandit.regret(), torch.stack(probabilities))


def build_strategies(options: Options) -> dict[str, Strategy]:
    """The classical strategies, each for all runs at once."""
    shape, std = (options.seeds, options.num_arms), options.reward_std
    return {
        "ε-greedy (ε = 0.1)": EpsilonGreedy(*shape),
        "UCB1": UCB1(*shape, reward_std=std),
        "Thompson sampling": ThompsonSampling(*shape, reward_std=std),
        "discounted UCB": DiscountedUCB(*shape, discount=1 - 1 / options.memory, reward_std=std),
        "sliding-window UCB": SlidingWindowUCB(*shape, window=options.memory, reward_std=std),
    }


def run_strategy(options: Options, name: str) -> Tensor:
    """Regret of each pull of a classical strategy in all runs, [runs, T]."""
    torch.set_num_threads(1)
    mean_paths = torch.stack([mean_path(options, seed) for seed in range(options.seeds)])
    arms, _ = play(build_strategies(options)[name], mean_paths, GaussianRewards(options.reward_std))
    return regret(mean_paths, arms)


def mean_and_interval(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first dimension, and half the width of its 95% interval."""
    return values.mean(0), 1.96 * values.std(0) / len(values) ** 0.5


def run_all(options: Options) -> tuple[list[Run], dict[str, Tensor]]:
    """GRPO on every seed and every classical strategy, on all cores, with live progress."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as processes,
        Progress(*columns, TextColumn("{task.fields[status]}")) as progress,
    ):
        names = list(build_strategies(options))
        pending = [processes.submit(run_grpo, options, seed) for seed in range(options.seeds)]
        others = processes.map(partial(run_strategy, options), names)
        task = progress.add_task("GRPO, seeds", total=options.seeds, status="")
        runs: list[Run] = []
        for future in pending:
            runs.append(future.result())
            mean = torch.stack([run.regret.sum() for run in runs]).mean().item()
            progress.update(task, advance=1, status=f"mean regret {mean:,.0f}")
        task = progress.add_task("classical strategies", total=len(names), status="")
        regrets = {}
        for name, values in zip(names, others, strict=True):
            regrets[name] = values
            progress.update(task, advance=1, status=f"{name}: mean regret {values.sum(1).mean().item():,.0f}")
    return runs, regrets


def print_table(regrets: dict[str, Tensor], options: Options) -> None:
    """Dynamic regret of all, best first."""
    table = Table(title=f"Dynamic regret after {options.num_pulls:,} pulls, {options.seeds} runs ({options.dynamics})")
    for column in ("strategy", "mean", "95% interval", "a pull, last tenth"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for name, values in sorted(regrets.items(), key=lambda item: item[1].sum(1).mean().item()):
        mean, half = (value.item() for value in mean_and_interval(values.sum(1)))
        late = values[:, -options.num_pulls // 10 :].mean().item()
        interval = f"[{mean - half:,.0f}, {mean + half:,.0f}]"
        table.add_row(name, f"{mean:,.0f}", interval, f"{late:.3f}", style="bold" if name == "GRPO" else None)
    Console().print(table)


def draw(runs: list[Run], regrets: dict[str, Tensor], options: Options) -> Path:
    """Save a figure: the arms, the policy that follows them, and the regret of all."""
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(9, 10), layout="constrained")
    means, probabilities = mean_path(options, seed=0), runs[0].probabilities
    times = torch.arange(len(probabilities)) * options.group_size
    colors = [
        mpl.colormaps["tab10" if options.num_arms <= 10 else "viridis"](
            arm / 10 if options.num_arms <= 10 else arm / options.num_arms
        )
        for arm in range(options.num_arms)
    ]
    for arm, color in enumerate(colors):
        top.plot(means[:, arm], color=color, linewidth=1)
    top.set(title="True means of the arms (first run)", ylabel="mean reward", xlim=(0, options.num_pulls))
    middle.stackplot(times, probabilities.T, colors=colors)
    middle.set(
        title="What GRPO pulls: probability of each arm, in the same colours",
        ylabel="probability",
        xlim=(0, options.num_pulls),
        ylim=(0, 1),
    )
    stride = max(1, options.num_pulls // 500)
    for name, values in regrets.items():
        mean, half = mean_and_interval(values.cumsum(1)[:, ::stride])
        times = torch.arange(len(mean)) * stride
        emphasis = {"linewidth": 2.5, "color": "black"} if name == "GRPO" else {"linewidth": 1.2}
        [line] = bottom.plot(times, mean, label=name, **emphasis)
        bottom.fill_between(times, mean - half, mean + half, color=line.get_color(), alpha=0.15, linewidth=0)
    bottom.set(
        title=f"Dynamic regret, mean over {options.seeds} runs with 95% intervals",
        xlabel="pull",
        ylabel="summed regret",
        xlim=(0, options.num_pulls),
        ylim=(0, None),
    )
    bottom.legend(loc="upper left")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"dynamic_bandit_{options.dynamics}.png"
    figure.savefig(path, dpi=120)
    return path


def main(options: Options) -> None:
    """Run all, print the table, save the figure."""
    runs, others = run_all(options)
    regrets = {"GRPO": torch.stack([run.regret for run in runs])}
    regrets |= {name: values[:, : regrets["GRPO"].shape[1]] for name, values in others.items()}
    print_table(regrets, options)
    Console().print(f"figure: {draw(runs, regrets, options)}")


if __name__ == "__main__":
    mpl.use("Agg")
    main(tyro.cli(Options, description=__doc__))
