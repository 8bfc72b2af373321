"""A picture of each example, from what its run has left behind, or from what the example defines."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch
from figures import BLUE, COLOURS, GREY, ORANGE, panels
from matplotlib.axes import Axes
from safetensors.torch import load_model

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))

import custom_policy  # noqa: E402
import fruit_from_pixels  # noqa: E402
import lunarlander_ppo  # noqa: E402
from grpo_adapters.gym import GymActorCritic  # noqa: E402


def noted(file: Path, metric: str) -> tuple[list[float], list[float]]:
    """The steps of a run at which a metric was noted, and its values."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [line["step"] for line in lines if metric in line], [line[metric] for line in lines if metric in line]


def curves(runs: dict[str, str], metric: str, label: str, *, file: str = "evaluations.jsonl") -> Callable[[Path], Axes]:
    """A metric of runs whose folders have such names, one thin line a run, over their steps."""

    def draw(folder: Path) -> Axes:
        [axes] = panels()
        for colour, (pattern, name) in zip(COLOURS, runs.items(), strict=False):
            files = sorted(folder.glob(f"outputs/**/{pattern}/{file}"))
            assert files, f"{folder} has no run {pattern}"
            for number, own in enumerate(files):
                axes.plot(*noted(own, metric), color=colour, linestyle="-", marker="", label=None if number else name)
        axes.set(xlabel="step", ylabel=label)
        if len(runs) > 1:
            axes.legend()
        return axes

    return draw


def metrics(names: dict[str, str], label: str, *, file: str = "evaluations.jsonl") -> Callable[[Path], Axes]:
    """Several metrics of the only run."""

    def draw(folder: Path) -> Axes:
        [axes] = panels()
        [own] = folder.glob(f"**/{file}")
        for metric, name in names.items():
            axes.plot(*noted(own, metric), label=name)
        axes.set(xlabel="step", ylabel=label)
        if len(names) > 1:
            axes.legend()
        return axes

    return draw


def printed(pattern: str, xlabel: str, ylabel: str) -> Callable[[Path], Axes]:
    """Pairs of numbers that a run has printed."""

    def draw(folder: Path) -> Axes:
        pairs = re.findall(pattern, (folder / "printed.txt").read_text(encoding="utf-8"))
        [axes] = panels()
        axes.plot([float(first) for first, _ in pairs], [float(second) for _, second in pairs])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        return axes

    return draw


def bandit_algorithms(folder: Path) -> Axes:
    told, _, *rows = (folder / "printed.txt").read_text(encoding="utf-8").splitlines()
    table = np.array([[float(cell) for cell in row.split()[1:]] for row in rows])
    places = [float(row.split("-")[0]) + 9.5 for row in rows]
    [axes] = panels()
    for name, values in zip(("REINFORCE", "PPO (clip)", "GRPO", "DPO"), table.T, strict=True):
        axes.plot(places, values, label=name)
    axes.axhline(float(told.split()[-1]), color=GREY, linestyle=":", linewidth=1)
    axes.set(xlabel="step", ylabel="mean reward")
    axes.legend()
    return axes


def dynamic_bandit(folder: Path) -> Axes:
    text = (folder / "printed.txt").read_text(encoding="utf-8")
    found = re.findall(r"^(.+?) +([\d,]+) +\[([\d,]+), ([\d,]+)\]", text, re.MULTILINE)
    names = [name for name, *_ in found]
    mean, low, high = np.array([[float(cell.replace(",", "")) for cell in row[1:]] for row in found]).T
    [axes] = panels()
    for place, name in enumerate(names):
        colour = ORANGE if name == "GRPO" else BLUE
        span = [[mean[place] - low[place]], [high[place] - mean[place]]]
        axes.errorbar(mean[place], place, xerr=span, fmt="o", color=colour, capsize=3, linestyle="", markevery=[0])
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="summed regret")
    axes.invert_yaxis()
    return axes


def scheduling(folder: Path) -> Axes:
    torch.manual_seed(0)
    policy = custom_policy.SchedulingPolicy()
    config = custom_policy.GRPOConfig(group_size=16, learning_rate=0.01)
    trainer = custom_policy.GRPOTrainer(config, policy, custom_policy.LowCost())
    for _ in range(200):
        trainer.step(custom_policy.random_jobs(16))
    jobs = custom_policy.random_jobs(40)
    scores = policy.scores(jobs).detach().flatten()
    durations, weights = torch.stack(jobs).flatten(0, 1).unbind(-1)
    [axes] = panels()
    axes.plot(weights / durations, scores, ".", markersize=3)
    axes.set(xscale="log", xlabel="weight / duration, by which the best order goes", ylabel="score of the policy")
    return axes


def pole(folder: Path) -> Axes:
    """The source with fewer updates, as its test has it."""
    shorter = folder / "ppo.py"
    source = (EXAMPLES / "ppo.py").read_text(encoding="utf-8")
    shorter.write_text(source.replace("NUM_UPDATES = 390", "NUM_UPDATES = 80"), encoding="utf-8")
    policy = runpy.run_path(str(shorter))["policy"]
    angles, speeds = np.meshgrid(np.linspace(-0.2, 0.2, 41), np.linspace(-2, 2, 41))
    seen = np.stack([0 * angles, 0 * angles, angles, speeds], -1).reshape(-1, 4).astype(np.float32)
    pushes = np.asarray(policy.predict(seen)).reshape(angles.shape)
    [axes] = panels()
    axes.contourf(angles, speeds, pushes, levels=[-0.5, 0.5, 1.5], colors=["#cccccc", BLUE])
    axes.text(-0.12, -1.2, "push left", ha="center", color="black")
    axes.text(0.12, 1.2, "push right", ha="center", color="white")
    axes.set(xlabel="angle of the pole (rad)", ylabel="its velocity (rad/s)")
    return axes


def landings(folder: Path) -> Axes:
    environment = gymnasium.make(lunarlander_ppo.ENVIRONMENT)
    policy = GymActorCritic(environment)
    load_model(policy, str(lunarlander_ppo.WEIGHTS))
    [axes] = panels()
    for seed in range(10):
        observation, _ = environment.reset(seed=seed)
        path, is_over = [observation], False
        while not is_over:
            action = policy.predict(observation[None])[0]
            observation, _, terminated, truncated, _ = environment.step(action)
            is_over = terminated or truncated
            path.append(observation)
        axes.plot(*np.array(path)[::4, :2].T, color=BLUE, linestyle="-", marker="", linewidth=0.8)
    axes.plot([-0.2, 0.2], [0, 0], color=ORANGE, linestyle="-", marker="|", linewidth=3)
    axes.set(xlabel="where", ylabel="height")
    return axes


def frames(folder: Path) -> Axes:
    environment = fruit_from_pixels.Fruit()
    seen = [environment.reset(seed=1)[0]]
    for _ in range(12):
        action = 1 + int(np.sign(environment.column - environment.bar))
        seen.append(environment.step(action)[0])
    [axes] = panels()
    axes.imshow(np.block([[seen[0], seen[4]], [seen[8], seen[12]]]), cmap="gray")
    axes.axhline(35.5, color=GREY, linestyle="-", linewidth=1)
    axes.axvline(35.5, color=GREY, linestyle="-", linewidth=1)
    axes.set_axis_off()
    return axes


def games(folder: Path) -> Axes:
    text = (folder / "printed.txt").read_text(encoding="utf-8")
    rows = re.findall(r"(\w+) +moving (\w+) +lines won +(\d+), drawn +(\d+), lost +(\d+)", text)
    [axes] = panels()
    names = [f"{agent}, {seat}" for agent, seat, *_ in rows]
    counts = np.array([[int(cell) for cell in row[2:]] for row in rows], float)
    shares, left = counts / counts.sum(1, keepdims=True), np.zeros(len(rows))
    for name, colour, hatch, share in zip(("won", "drawn", "lost"), COLOURS, ("", "//", "xx"), shares.T, strict=False):
        axes.barh(names, share, left=left, label=name, color=colour, hatch=hatch)
        left += share
    axes.invert_yaxis()
    axes.set(xlabel="share of all lines of play")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3)
    return axes


RETURN = "mean return of an evaluation"
PICTURES: dict[str, Callable[[Path], Axes]] = {
    "bandit_algorithms": bandit_algorithms,
    "dynamic_bandit": dynamic_bandit,
    "custom_policy": scheduling,
    "ppo": pole,
    "cartpole_grpo": curves({"GRPO-*": "GRPO", "PPO-*": "PPO"}, "evaluation/mean_return", RETURN),
    "cartpole_reinforce": curves({"REINFORCE-*": "REINFORCE"}, "evaluation/mean_return", RETURN),
    "toy_environments": curves({"*-*": "PPO"}, "evaluation/mean_return", RETURN),
    "masked_cartpole": curves(
        {"gru-*": "GRU", "none-*": "no memory"}, "episode_return", "episode return", file="metrics.jsonl"
    ),
    "lunarlander_ppo": landings,
    "fruit_from_pixels": frames,
    "batched_simulator": printed(r"update +(\d+) +episode_return +([\d.]+)", "update", "episode return"),
    "tictactoe": games,
    "language_model": metrics(
        {"likeliest/reward": "likeliest answer", "sampled/reward": "sampled answer"}, "right answers"
    ),
    "agent": metrics({"evaluation/reward": "games won"}, "held-out games won"),
    "fine_tune_with_rewards": metrics({"held_out/reward": "reward"}, "held-out reward"),
    "engine": metrics({"reward": "reward"}, "right answers of the rollouts", file="metrics.jsonl"),
    "dpo_synthetic": metrics({"held_out/utility": "utility"}, "mean utility of what is drawn"),
    "preference_language_model": metrics(
        {"held_out/logps/chosen": "chosen", "held_out/logps/rejected": "rejected"}, "log-prob of an answer (nats)"
    ),
    "fine_tune_on_preferences": metrics({"held_out/rewards/accuracies": "pairs"}, "pairs ranked as labelled"),
    "several_processes": printed(r"step +(\d+) +mean cost (\d[\d.]+)", "step", "mean cost"),
    "ray_train": metrics({"reward": "reward"}, "reward", file="metrics.jsonl"),
}
