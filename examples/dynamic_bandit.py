"""GRPO on a bandit whose arms change while it plays, beside the classical strategies.

Every pull moves the means of the arms. GRPO decides on a group of pulls at once and then updates; the others learn from
every single pull. What counts is dynamic regret: the mean of the arm that is best at that moment minus that of the arm
that was pulled, summed up.
"""

from __future__ import annotations

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
from torch import Tensor

from grpo import GroupRelative, GRPOConfig, GRPOTrainer, Run, Until, group_centered_advantages
from grpo_adapters import bandit
from grpo_adapters.bandit import GaussianRewards, baselines

MEAN_PATHS: dict[str, Callable[..., Tensor]] = {
    "drift": bandit.random_walk_means,
    "switches": bandit.switching_means,
    "seasons": bandit.seasonal_means,
}
NUM_ARMS = 10
STRATEGIES: dict[str, Callable[..., baselines.Strategy]] = {
    "ε-greedy (ε = 0.1)": baselines.EpsilonGreedy,
    "UCB1": baselines.UCB1,
    "Thompson sampling": baselines.ThompsonSampling,
    "discounted UCB": partial(baselines.DiscountedUCB, discount=1 - 1 / 2000),
    "sliding-window UCB": partial(baselines.SlidingWindowUCB, window=2000),
}


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    dynamics: Literal["drift", "switches", "seasons"] = "drift"
    """How the means of the arms change: they walk at random, jump now and then, or follow sines."""
    num_pulls: int = 20_000
    """Pulls in a run."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 20
    """Runs, each with a path of its own."""
    output: Path = Path("outputs")
    """Folder for the figure."""


def mean_path(options: Options, seed: int) -> Tensor:
    return MEAN_PATHS[options.dynamics](options.num_pulls, NUM_ARMS, seed=seed)


def run_grpo(options: Options, seed: int) -> Tensor:
    """Regret of each pull of GRPO, [T]."""
    torch.set_num_threads(1)
    policy = bandit.SoftmaxPolicy(NUM_ARMS, generator=bandit.seeded_generator("policy", seed))
    changing = bandit.DynamicBandit(mean_path(options, seed), GaussianRewards(std=1.0), seed=seed)
    config = GRPOConfig(group_size=8, learning_rate=0.1, entropy_coefficient=0.2)
    # Rewards of one arm differ by noise alone; scaling by their spread would blow that noise up.
    trainer = GRPOTrainer(config, policy, changing, advantage_estimator=GroupRelative(group_centered_advantages))
    Run(trainer, ["the only state"])(Until(steps=options.num_pulls // 8))
    return changing.regret()


def run_strategy(options: Options, name: str) -> Tensor:
    """Regret of each pull of a classical strategy in all runs, [runs, T]."""
    torch.set_num_threads(1)
    paths = torch.stack([mean_path(options, seed) for seed in range(options.seeds)])
    arms, _ = baselines.play(STRATEGIES[name](options.seeds, NUM_ARMS), paths, GaussianRewards(std=1.0))
    return bandit.regret(paths, arms)


def mean_and_interval(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over runs, and half the width of its 95% interval."""
    return values.mean(0), 1.96 * values.std(0) / len(values) ** 0.5


def draw(regrets: dict[str, Tensor], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for name, values in regrets.items():
        times = torch.arange(0, values.shape[1], max(1, values.shape[1] // 500))
        mean, half = mean_and_interval(values.cumsum(1)[:, times])
        [line] = axes.plot(times, mean, label=name, linewidth=2.5 if name == "GRPO" else 1.2)
        axes.fill_between(times, mean - half, mean + half, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(title="Dynamic regret, mean with 95% intervals", xlabel="pull", ylabel="summed regret", ylim=(0, None))
    axes.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"figure: {path}")


def main(options: Options) -> None:
    """Run all, print the regrets, save the figure."""
    print(f"dynamic regret of {options.num_pulls:,} pulls, {options.seeds} runs ({options.dynamics})")
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        own = processes.map(partial(run_grpo, options), range(options.seeds))
        others = processes.map(partial(run_strategy, options), STRATEGIES)
        regrets = {"GRPO": torch.stack(list(own)), **dict(zip(STRATEGIES, others, strict=True))}
    print(f"{'strategy':20} {'mean':>7}  {'95% interval':>16}  a pull, last tenth")
    for name, values in sorted(regrets.items(), key=lambda item: item[1].sum(1).mean().item()):
        mean, half = (value.item() for value in mean_and_interval(values.sum(1)))
        late = values[:, -options.num_pulls // 10 :].mean().item()
        print(f"{name:20} {mean:7,.0f}  {f'[{mean - half:,.0f}, {mean + half:,.0f}]':>16}  {late:18.3f}")
    draw(regrets, options.output / f"dynamic_bandit_{options.dynamics}.png")


if __name__ == "__main__":
    mpl.use("Agg")
    main(tyro.cli(Options, description=__doc__))
