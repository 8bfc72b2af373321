"""A training by the settings of the zoo: this library's, and Stable-Baselines3's with the same settings."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from grpo import World
from grpo_adapters.cli.gym_environments import make
from grpo_adapters.cli.gym_options import GymPPOOptions, parse_options
from grpo_adapters.cli.gym_training import KIND
from grpo_adapters.cli.records import read_record
from grpo_adapters.gym import evaluate
from stable_baselines3_ppo import greedy_return, their_environments, their_ppo

EPISODES = 100
EVALUATION_SEED = 3_000_000_000
NEVER = "1000000000"
MOST_POINTS = 40


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        decisions: actions in the environment that were learnt from.
        final: mean return of 100 fresh episodes of the last policy, greedily.
        curve: of the training, decisions and the mean return of the last 100 episodes, at some 40 points.
    """

    decisions: int
    final: float
    curve: list[tuple[int, float]]


def options_of(name: str, seed: int, *more: str) -> Any:
    """The options of a training by the settings ``name``."""
    return parse_options(["--config", name, "--seed", str(seed), *more])


def ours(options: Any) -> Outcome:
    """Train by ``anygrpo train gym``, without its evaluations on the way."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = KIND.resolve(
            options.model_copy(update={"folder": Path(folder, "run"), "evaluate_every": int(NEVER)})
        )
        run = KIND.build(resolved, [], World())
        run(resolved.until)
        lines = read_record(resolved.folder).metrics
    decisions = np.cumsum([line["num_decisions"] for line in lines]).astype(int).tolist()
    curve = [
        (at, line["episode_return"]) for at, line in zip(decisions, lines, strict=True) if "episode_return" in line
    ]
    environment = partial(make, options.environment, options.wrappers)
    final = evaluate(run.trainer.policy, environment, EPISODES, seed=EVALUATION_SEED).mean
    return Outcome(decisions[-1], final, thinned(curve))


def theirs(options: GymPPOOptions) -> Outcome:
    """Train by PPO of Stable-Baselines3, in its own vector environments and normalisation."""
    environment = partial(make, options.environment, options.wrappers)
    envs = their_environments(
        environment,
        options.num_envs,
        options,
        normalize_observations=options.normalize_observations,
        normalize_rewards=options.normalize_rewards,
    )
    initial_std = options.initial_std or 1.0
    model = their_ppo(options, envs, options.num_steps, hidden_sizes=options.hidden_sizes, initial_std=initial_std)
    curve: list[tuple[int, float]] = []

    def note(_: Any) -> None:
        if model.ep_info_buffer:
            curve.append((model.num_timesteps, float(np.mean([episode["r"] for episode in model.ep_info_buffer]))))

    callback = _at_the_end_of_rollouts(note)
    model.learn(options.until_decisions, callback=callback)
    final = greedy_return(model, environment(), EPISODES, EVALUATION_SEED)
    return Outcome(model.num_timesteps, final, thinned(curve))


def _at_the_end_of_rollouts(note: Callable[[Any], None]) -> Any:
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from stable_baselines3.common.callbacks import BaseCallback

    class AtTheEndOfRollouts(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            note(self)

    return AtTheEndOfRollouts()


def thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most some 40 points of a curve, the last one among them."""
    every = max(1, math.ceil(len(curve) / MOST_POINTS))
    return [(at, round(value, 2)) for at, value in curve[::-1][::every][::-1]]
