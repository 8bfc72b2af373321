"""Atari Pong from pixels: this library's PPO beside Stable-Baselines3's, with rl-zoo3's settings for Atari.

Both take turns in one process, a rollout of 8 environments and its updates at a time, with PyTorch on one thread. This
library's environments are played by as many threads as there are cores, which is what they do unless told otherwise,
and once more by one; Stable-Baselines3's one after another, as its ``make_atari_env`` has them. What memory the
iterations of each take at most is measured in a process of its own. The last line holds the ratios, of the median
speeds and of the memory, as JSON.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from alternating import median_seconds
from grpo import LinearSchedule, PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, atari_environments
from stable_baselines3_ppo import their_iteration

NUM_ENVS, BATCH_SIZE, NUM_EPOCHS, TOTAL_STEPS = 8, 256, 4, 10_000_000


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    rounds: int = 3
    """Turns that each takes, after one that does not count."""
    num_steps: int = 128
    """Steps of each environment in a rollout."""
    memory_of: Literal["ours", "SB3"] | None = None
    """Measure the memory of one of them in this process, and nothing else."""


def our_ppo(num_steps: int, num_threads: int = 0) -> Callable[[], object]:
    """One rollout and its updates by this library; 0 threads are as many as there are cores."""
    envs = atari_environments(
        "ALE/Pong-v5", NUM_ENVS, episodic_life=True, repeat_action_probability=0.0, num_threads=num_threads
    )
    sampler = FragmentSampler(envs, num_steps, environments_in_state="restart")
    num_updates = TOTAL_STEPS // (NUM_ENVS * num_steps)
    clip = LinearSchedule(start=0.1, end=0.0, num_steps=num_updates)
    config = PPOConfig(
        batch_size=BATCH_SIZE,
        micro_batch_size=BATCH_SIZE // 2,  # half the memory of a minibatch, and the same update
        num_epochs_per_update=NUM_EPOCHS,
        learning_rate=LinearSchedule(start=2.5e-4, end=0.0, num_steps=num_updates),
        clip_low=clip,
        clip_high=clip,
        entropy_coefficient=0.01,
        value_coefficient=0.5,
    )
    trainer = PPOTrainer(config, GymActorCritic(sampler), EnvironmentReward())
    return lambda: trainer.step(sampler.states)


def stable_baselines3_ppo(num_steps: int) -> Callable[[], object]:
    """One rollout and its updates by Stable-Baselines3."""
    # Here, since pytest imports this module in search of doctests, and need not have the library.
    import ale_py
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    model = PPO(
        "CnnPolicy",
        VecFrameStack(make_atari_env("PongNoFrameskip-v4", NUM_ENVS, seed=0), 4),
        n_steps=num_steps,
        batch_size=BATCH_SIZE,
        n_epochs=NUM_EPOCHS,
        learning_rate=lambda remaining: 2.5e-4 * remaining,
        clip_range=lambda remaining: 0.1 * remaining,
        ent_coef=0.01,
        vf_coef=0.5,
        device="cpu",
    )
    return their_iteration(model, TOTAL_STEPS)


CONTENDERS: dict[str, Callable[[int], Callable[[], object]]] = {
    "ours": our_ppo,
    "ours on one thread": functools.partial(our_ppo, num_threads=1),
    "SB3": stable_baselines3_ppo,
}


def peak_megabytes() -> float:
    """The most memory that this process has had, and not the one that started it, which ``ru_maxrss`` begins from."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [kilobytes] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(kilobytes) / 1024


def added_megabytes(options: Options) -> float:
    """What two iterations add at most to what there is when all is built."""
    assert options.memory_of is not None
    iteration = CONTENDERS[options.memory_of](options.num_steps)
    before = peak_megabytes()
    iteration()
    iteration()
    return peak_megabytes() - before


def ratios(options: Options) -> dict[str, float]:
    """Measure and print; how many times as fast, and how much of the memory."""
    memory = {}
    for name in ("ours", "SB3"):
        command = [sys.executable, __file__, "--memory-of", name, "--num-steps", str(options.num_steps)]
        memory[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        print(f"{name:18s} {memory[name]:7,.0f} MB at most for two iterations", flush=True)
    jobs = {name: build(options.num_steps) for name, build in CONTENDERS.items()}
    for job in jobs.values():
        job()
    seconds = median_seconds(jobs, rounds=options.rounds, calls=1)
    for name, own in seconds.items():
        print(f"{name:18s} {NUM_ENVS * options.num_steps / own:7,.0f} steps/s")
    found = {
        "speed": seconds["SB3"] / seconds["ours"],
        "speed on one thread": seconds["SB3"] / seconds["ours on one thread"],
        "memory": memory["ours"] / memory["SB3"],
    }
    return {name: round(value, 3) for name, value in found.items()}


def main(options: Options) -> None:
    """Measure all, or the memory of one."""
    torch.set_num_threads(1)
    print(json.dumps(ratios(options)) if options.memory_of is None else added_megabytes(options))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
