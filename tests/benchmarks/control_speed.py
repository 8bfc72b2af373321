"""Environment steps per second of PPO: this library beside Stable-Baselines3 and hand-written loops.

All of them take turns in one process on one thread: the same environments with rl-zoo3's settings, a rollout and its
updates at a time. Stable-Baselines3 runs as its ``make_vec_env`` sets it up, which asks LunarLander for frames that
nobody looks at, and once more without them. The last line holds the ratios of the medians as JSON.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import gymnasium
import torch
import tyro

from grpo import LinearSchedule, PPOConfig, PPOTrainer, World
from grpo.training import _adamw, _optimization
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic
from hand_written_ppo import CART_POLE, LUNAR_LANDER, HandTunedPPO, HandWrittenPPO, Settings
from stable_baselines3_ppo import StableBaselines3PPO


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    rounds: int = 9
    """Turns that each takes."""
    lunar_lander_iterations: int = 1
    """Rollouts of LunarLander in a turn, 16,384 steps each."""
    cart_pole_iterations: int = 20
    """Rollouts of CartPole in a turn, 256 steps each."""


def our_ppo(settings: Settings, world: World | None = None) -> PPOTrainer[Any, Any]:
    """This library's trainer with the settings of the others."""
    envs = gymnasium.make_vec(
        settings.environment,
        settings.num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP, "copy": False},
    )
    num_updates = settings.total_steps // (settings.num_envs * settings.num_steps)
    rate: float | LinearSchedule = settings.learning_rate
    clip: float | LinearSchedule = settings.clip_range
    if settings.anneal:
        rate = LinearSchedule(start=settings.learning_rate, end=0.0, num_steps=num_updates)
        clip = LinearSchedule(start=settings.clip_range, end=0.0, num_steps=num_updates)
    config = PPOConfig(
        batch_size=settings.batch_size,
        num_epochs_per_update=settings.num_epochs,
        discount=settings.discount,
        gae_lambda=settings.gae_lambda,
        entropy_coefficient=settings.entropy_coefficient,
        learning_rate=rate,
        clip_low=clip,
        clip_high=clip,
        value_coefficient=settings.value_coefficient,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
    )
    sampler = FragmentSampler(envs, settings.num_steps, seed=settings.seed)
    return PPOTrainer(config, GymActorCritic(sampler, seed=settings.seed), EnvironmentReward(), world=world)


def jobs(settings: Settings) -> dict[str, Callable[[], object]]:
    """One rollout and its updates, of each."""
    trainer = our_ppo(settings)
    slots = list(range(settings.num_envs))
    found: dict[str, Callable[[], object]] = {
        "ours": lambda: trainer.step(slots),
        "hand-written": HandWrittenPPO(settings).iteration,
        "hand-tuned": HandTunedPPO(settings).iteration,
        "SB3": StableBaselines3PPO(settings, render_mode="rgb_array").iteration,
    }
    if settings.environment.startswith("LunarLander"):
        found["SB3 without frames"] = StableBaselines3PPO(settings).iteration
    return found


def steps_per_second(settings: Settings, *, rounds: int, iterations: int) -> dict[str, float]:
    """Median over the rounds, the first turn of each left out."""
    contenders = jobs(settings)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, job in contenders.items():
            start = time.perf_counter()
            for _ in range(iterations):
                job()
            seconds = time.perf_counter() - start
            speeds[name].append(iterations * settings.num_envs * settings.num_steps / seconds)
    return {name: statistics.median(values[1:]) for name, values in speeds.items()}


def profile(settings: Settings, *, iterations: int) -> dict[str, float]:
    """Milliseconds of one of our iterations that each phase takes."""
    trainer = our_ppo(settings)
    policy: Any = trainer.policy
    slots = policy.sampler.states
    trainer.step(slots)
    phases: dict[str, float] = {}
    policy.sampler.envs.step = timed(policy.sampler.envs.step, "environments", phases)
    policy.decide = timed(policy.decide, "decisions while sampling", phases)
    policy.evaluate_actions = timed(policy.evaluate_actions, "forward", phases)
    trainer.objective = timed_objective(trainer.objective, phases)
    start = time.perf_counter()
    with (
        patch.object(torch.autograd, "backward", timed(torch.autograd.backward, "backward", phases)),
        patch.object(_optimization, "make_step", timed(_adamw.make_step, "optimizer", phases)),
    ):
        for _ in range(iterations):
            trainer.step(slots)
    phases["everything else"] = time.perf_counter() - start - sum(phases.values())
    return {phase: seconds / iterations * 1e3 for phase, seconds in phases.items()}


def timed(function: Callable[..., Any], phase: str, phases: dict[str, float]) -> Callable[..., Any]:
    """The function, which adds the seconds that it takes to its phase."""

    @functools.wraps(function)
    def measured(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments, **options)
        phases[phase] = phases.get(phase, 0.0) + time.perf_counter() - start
        return result

    return measured


def timed_objective(objective: Any, phases: dict[str, float]) -> Any:
    """The objective, timed, with what the trainer reads of it."""
    measured: Any = timed(lambda evaluation, decisions: objective(evaluation, decisions), "objective", phases)
    measured.needs = objective.needs
    return measured


def main(options: Options) -> None:
    """Run both tasks and print."""
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    for settings, iterations in (
        (LUNAR_LANDER, options.lunar_lander_iterations),
        (CART_POLE, options.cart_pole_iterations),
    ):
        speeds = steps_per_second(settings, rounds=options.rounds, iterations=iterations)
        print(settings.environment)
        for name, speed in speeds.items():
            print(f"  {name:20s} {speed:8,.0f} steps/s")
            if name != "ours":
                ratios[f"{settings.environment} / {name}"] = round(speeds["ours"] / speed, 3)
        for phase, milliseconds in profile(settings, iterations=iterations).items():
            print(f"    {phase:26s} {milliseconds:7.1f} ms of an iteration")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
