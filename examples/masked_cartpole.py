"""CartPole without its velocities, with a memory and without.

Where cart and pole are does not tell where they are going: a policy that sees nothing else falls over soon, one that
remembers what it saw can tell. Both are trained with the same settings, those of rl-zoo3 for CartPole; the one without
a memory has a layer of as many units in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from grpo import LinearSchedule, PPOConfig, PPOTrainer, Run, Until
from grpo_adapters.gym import (
    GRU,
    LSTM,
    EnvironmentReward,
    EvaluationResult,
    FragmentSampler,
    GymActorCritic,
    StackedUnits,
    WindowTransformer,
    evaluate,
)

Memory = Literal["gru", "lstm", "stack", "transformer", "none"]
NUM_ENVS, NUM_STEPS, NUM_UNITS = 8, 32, 64


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    memories: tuple[Memory, ...] = ("gru", "none")
    """What policies remember with."""
    steps: int = 100_000
    """Environment steps of each training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Trainings, each with a seed of its own."""
    normalize_advantages: bool = False
    """To standard deviation 1, as PPO usually does. Where all goes well they are noise, and made as large as ever."""
    output: Path = Path("outputs/masked-cartpole")
    """Folder for the runs, to be drawn by anygrpo plot."""


def masked_cartpole() -> gymnasium.Env[Any, Any]:
    """CartPole whose observations are the position of the cart and the angle of the pole."""
    space = gymnasium.spaces.Box(-5.0, 5.0, (2,))
    return gymnasium.wrappers.TransformObservation(gymnasium.make("CartPole-v1"), lambda seen: seen[[0, 2]], space)


def make_memory(name: Memory) -> nn.Module | None:
    """What remembers what the trunk makes of observations."""
    memories: dict[Memory, nn.Module] = {
        "gru": GRU(NUM_UNITS, NUM_UNITS),
        "lstm": LSTM(NUM_UNITS, NUM_UNITS),
        "stack": StackedUnits(length=4),
        "transformer": WindowTransformer(NUM_UNITS, NUM_UNITS, length=8),
    }
    return memories.get(name)


def build(memory: Memory, seed: int, options: Options) -> tuple[PPOTrainer[Any, Any], GymActorCritic]:
    """A trainer and its policy."""
    torch.manual_seed(seed)
    envs = SyncVectorEnv([masked_cartpole] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    remembers = make_memory(memory)
    layers = [nn.Linear(2, NUM_UNITS), nn.Tanh()]
    if remembers is None:
        layers += [nn.Linear(NUM_UNITS, NUM_UNITS), nn.Tanh()]
    policy = GymActorCritic(
        FragmentSampler(envs, NUM_STEPS, seed=seed),
        trunk=nn.Sequential(*layers),
        memory=remembers,
        hidden_sizes=(NUM_UNITS,),
        normalize_observations=True,
        seed=seed,
    )
    num_updates = max(options.steps // (NUM_ENVS * NUM_STEPS), 1)
    clip = LinearSchedule(start=0.2, end=0.0, num_steps=num_updates)
    config = PPOConfig(
        batch_size=None,  # all that was sampled
        num_epochs_per_update=20,
        learning_rate=LinearSchedule(start=1e-3, end=0.0, num_steps=num_updates),
        clip_low=clip,
        clip_high=clip,
        discount=0.98,
        gae_lambda=0.8,
        advantage_normalization="per_minibatch" if options.normalize_advantages else None,
        value_coefficient=0.05,  # actor and critic share what remembers
        seed=seed,
    )
    return PPOTrainer(config, policy, EnvironmentReward()), policy


def train(memory: Memory, seed: int, options: Options) -> EvaluationResult:
    """One training; how good its policy is then, on 100 fresh episodes."""
    trainer, policy = build(memory, seed, options)
    run = Run(trainer, list(range(NUM_ENVS)), folder=options.output / f"{memory}-{seed}")
    run(Until(decisions=options.steps))
    return evaluate(policy, masked_cartpole, 100, seed=2_000_000)


def main(options: Options) -> None:
    """Train with every memory and seed, and print what was learnt."""
    torch.set_num_threads(1)
    for memory in options.memories:
        for seed in options.seeds:
            print(f"{memory}, seed {seed}, {options.steps:,} steps: {train(memory, seed, options)}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
