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

from grpo import LinearSchedule, World
from grpo_adapters.cli.gym_environments import make
from grpo_adapters.cli.gym_options import GymPPOOptions, parse_options
from grpo_adapters.cli.gym_training import KIND
from grpo_adapters.cli.records import read_record
from grpo_adapters.gym import evaluate

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
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    from stable_baselines3 import PPO  # type: ignore[import-not-found, unused-ignore]
    from stable_baselines3.common.env_util import make_vec_env  # type: ignore[import-not-found, unused-ignore]
    from stable_baselines3.common.vec_env import VecNormalize  # type: ignore[import-not-found, unused-ignore]

    environment = partial(make, options.environment, options.wrappers)
    envs: Any = make_vec_env(environment, options.num_envs, seed=options.seed)
    if options.normalize_observations or options.normalize_rewards:
        envs = VecNormalize(
            envs,
            norm_obs=options.normalize_observations,
            norm_reward=options.normalize_rewards,
            gamma=options.discount,
        )
    sizes = list(options.hidden_sizes)
    model = PPO(
        "MlpPolicy",
        envs,
        n_steps=options.num_steps,
        batch_size=options.batch_size,
        n_epochs=options.num_epochs_per_update,
        gamma=options.discount,
        gae_lambda=options.gae_lambda,
        ent_coef=options.entropy_coefficient,
        learning_rate=schedule(options.learning_rate),
        clip_range=schedule(options.clip_high),
        vf_coef=options.value_coefficient,
        max_grad_norm=options.max_grad_norm,
        policy_kwargs={"net_arch": {"pi": sizes, "vf": sizes}, "log_std_init": math.log(options.initial_std or 1.0)},
        seed=options.seed,
        device="cpu",
    )
    curve: list[tuple[int, float]] = []

    def note(_: Any) -> None:
        if model.ep_info_buffer:
            curve.append((model.num_timesteps, float(np.mean([episode["r"] for episode in model.ep_info_buffer]))))

    callback = _at_the_end_of_rollouts(note)
    model.learn(options.until_decisions, callback=callback)
    return Outcome(model.num_timesteps, _greedy_return(model, envs, environment()), thinned(curve))


def _at_the_end_of_rollouts(note: Callable[[Any], None]) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback  # type: ignore[import-not-found, unused-ignore]

    class AtTheEndOfRollouts(BaseCallback):  # type: ignore[misc, unused-ignore]
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            note(self)

    return AtTheEndOfRollouts()


def _greedy_return(model: Any, envs: Any, environment: Any) -> float:
    normalized = getattr(envs, "norm_obs", False)
    returns = np.zeros(EPISODES)
    for episode in range(EPISODES):
        observation, _ = environment.reset(seed=EVALUATION_SEED + episode)
        done = False
        while not done:
            seen = envs.normalize_obs(observation) if normalized else observation
            action, _ = model.predict(seen, deterministic=True)
            observation, reward, terminated, truncated, _ = environment.step(action)
            returns[episode] += float(reward)
            done = terminated or truncated
    return float(returns.mean())


def schedule(number: Any) -> Any:
    """A number, or what Stable-Baselines3 takes for a schedule that ends with the training."""
    if isinstance(number, LinearSchedule):
        return lambda remaining: number.end + (number.start - number.end) * max(0.0, remaining)
    return number


def thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most some 40 points of a curve, the last one among them."""
    every = max(1, math.ceil(len(curve) / MOST_POINTS))
    return [(at, round(value, 2)) for at, value in curve[::-1][::every][::-1]]
