"""Environment steps per second of PPO: this library beside Stable-Baselines3 and hand-written loops.

All of them take turns in one process on one thread: the same environments with rl-zoo3's settings, a rollout and its
updates at a time. This library's takes part once more with ``compile_updates``, compiled in the turn that does not
count, and once more with half of the environments in a second process.
Stable-Baselines3 runs as its ``make_vec_env`` sets it up, which asks LunarLander for frames that nobody looks at, and
once more without them. Then follows what ``recurrent_speed.py`` and ``atari_speed.py`` measure. The last line holds
all ratios of the medians as JSON.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import gymnasium
import torch
import tyro

import atari_speed
import recurrent_speed
from alternating import median_seconds
from grpo import LinearSchedule, PPOConfig, PPOTrainer, World
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, ParallelVectorEnv
from hand_written_ppo import CART_POLE, LUNAR_LANDER, HandTunedPPO, HandWrittenPPO, Settings
from stable_baselines3_ppo import their_environments, their_iteration, their_ppo

OURS = ("ours", "ours compiled", "ours in two processes")


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    rounds: int = 9
    """Turns that each takes."""
    lunar_lander_iterations: int = 1
    """Rollouts of LunarLander in a turn, 16,384 steps each."""
    cart_pole_iterations: int = 20
    """Rollouts of CartPole in a turn, 256 steps each."""


def config_of(settings: Settings, *, compile_updates: bool = False) -> PPOConfig:
    """The settings of the hand-written loop as this library's."""
    num_updates = settings.total_steps // (settings.num_envs * settings.num_steps)
    rate: float | LinearSchedule = settings.learning_rate
    clip: float | LinearSchedule = settings.clip_range
    if settings.anneal:
        rate = LinearSchedule(start=settings.learning_rate, end=0.0, num_steps=num_updates)
        clip = LinearSchedule(start=settings.clip_range, end=0.0, num_steps=num_updates)
    return PPOConfig(
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
        compile_updates=compile_updates,
    )


def our_ppo(
    settings: Settings, world: World | None = None, *, in_two_processes: bool = False, compile_updates: bool = False
) -> PPOTrainer[Any, Any]:
    """This library's trainer."""
    envs: Any = gymnasium.make_vec(
        settings.environment,
        settings.num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP, "copy": False},
    )
    if in_two_processes:
        envs = ParallelVectorEnv([functools.partial(gymnasium.make, settings.environment)] * settings.num_envs)
    sampler = FragmentSampler(envs, settings.num_steps, seed=settings.seed, environments_in_state="restart")
    policy = GymActorCritic(sampler, seed=settings.seed)
    config = config_of(settings, compile_updates=compile_updates)
    return PPOTrainer(config, policy, EnvironmentReward(), world=world)


def stable_baselines3_ppo(settings: Settings, render_mode: str | None = None) -> Callable[[], None]:
    """One rollout and its updates of Stable-Baselines3."""
    make = functools.partial(gymnasium.make, settings.environment, render_mode=render_mode)
    config = config_of(settings)
    model = their_ppo(config, their_environments(make, settings.num_envs, config), settings.num_steps)
    return their_iteration(model, settings.total_steps)


def jobs(settings: Settings) -> dict[str, Callable[[], object]]:
    """One rollout and its updates, of each."""
    ours = our_ppo(settings), our_ppo(settings, compile_updates=True), our_ppo(settings, in_two_processes=True)
    slots = list(range(settings.num_envs))
    found: dict[str, Callable[[], object]] = {
        **{name: functools.partial(trainer.step, slots) for name, trainer in zip(OURS, ours, strict=True)},
        "hand-written": HandWrittenPPO(settings).iteration,
        "hand-tuned": HandTunedPPO(settings).iteration,
        "SB3": stable_baselines3_ppo(settings, render_mode="rgb_array"),
    }
    if settings.environment.startswith("LunarLander"):
        found["SB3 without frames"] = stable_baselines3_ppo(settings)
    return found


def steps_per_second(settings: Settings, *, rounds: int, iterations: int) -> dict[str, float]:
    """Median over the rounds, behind a first turn of each."""
    contenders = jobs(settings)
    for job in contenders.values():
        job()
    seconds = median_seconds(contenders, rounds=rounds, calls=iterations)
    return {name: settings.num_envs * settings.num_steps / own for name, own in seconds.items()}


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
        patch.object(torch.optim.AdamW, "step", timed(torch.optim.AdamW.step, "optimizer", phases)),
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
            print(f"  {name:22s} {speed:8,.0f} steps/s")
            if name not in OURS:
                ratios[f"{settings.environment} / {name}"] = round(speeds["ours"] / speed, 3)
                for other in OURS[1:]:
                    ratios[f"{settings.environment} / {name}, {other}"] = round(speeds[other] / speed, 3)
        for phase, milliseconds in profile(settings, iterations=iterations).items():
            print(f"    {phase:26s} {milliseconds:7.1f} ms of an iteration")
    print("CartPole-v1 with an LSTM")
    for name, ratio in recurrent_speed.ratios(recurrent_speed.Options()).items():
        ratios[f"CartPole-v1 with an LSTM / sb3-contrib, {name}"] = ratio
    print("Pong")
    for name, ratio in atari_speed.ratios(atari_speed.Options()).items():
        ratios[f"Pong / SB3, {name}"] = ratio
    print(json.dumps(ratios))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
