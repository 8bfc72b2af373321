"""CartPole without its velocities, with a memory and without.

Where the cart and the pole are does not tell where they are going: a policy that sees nothing else falls over soon. One
that remembers what it saw can tell. Both are trained by PPO with the same settings; the one without a memory has a
layer of the same size in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
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

Memory = Literal["lstm", "gru", "stack", "transformer", "none"]


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    memories: tuple[Memory, ...] = ("lstm", "none")
    """What policies remember with."""
    steps: int = 300_000
    """Environment steps of each training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs/masked-cartpole")
    """Folder for the runs, to be drawn by anygrpo plot."""
    episodes: int = 100
    """Fresh episodes that each policy is evaluated on."""


class MaskedCartPole(gymnasium.ObservationWrapper[NDArray[np.float32], int, NDArray[np.float32]]):
    """CartPole whose observations are the position of the cart and the angle of the pole."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (2,))

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Position and angle."""
        return observation[[0, 2]]


def make_memory(name: Memory) -> nn.Module | None:
    """A memory of 64 units that reads 64."""
    makers: dict[Memory, Any] = {
        "lstm": lambda: LSTM(64, 64),
        "gru": lambda: GRU(64, 64),
        "stack": lambda: StackedUnits(4),
        "transformer": lambda: WindowTransformer(64, 64, length=8),
        "none": lambda: None,
    }
    return makers[name]()


def train(memory: Memory, seed: int, options: Options) -> EvaluationResult:
    """One training; how good its policy is then."""
    torch.manual_seed(seed)
    envs = SyncVectorEnv([MaskedCartPole] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
    sampler = FragmentSampler(envs, num_steps=128, seed=seed)
    layers = [nn.Linear(2, 64), nn.Tanh()] + ([nn.Linear(64, 64), nn.Tanh()] if memory == "none" else [])
    policy = GymActorCritic(
        sampler,
        trunk=nn.Sequential(*layers),
        memory=make_memory(memory),
        window=None if memory == "none" else 32,
        normalize_observations=True,
        seed=seed,
    )
    num_updates = options.steps // (8 * 128)
    config = PPOConfig(
        batch_size=256 if memory == "none" else 8,  # rows: steps, or windows of 32 steps
        num_epochs_per_update=10,
        learning_rate=LinearSchedule(start=1e-3, end=0.0, num_steps=num_updates),
        discount=0.99,
        gae_lambda=0.95,
        max_grad_norm=0.5,
        seed=seed,
    )
    run = Run(
        PPOTrainer(config, policy, EnvironmentReward()), sampler.states, folder=options.output / f"{memory}-{seed}"
    )
    run(Until(decisions=options.steps))
    return evaluate(policy, MaskedCartPole, options.episodes, seed=2_000_000)


def main(options: Options) -> None:
    """Train with every memory and seed, and print what was learnt."""
    torch.set_num_threads(1)
    for memory in options.memories:
        for seed in options.seeds:
            print(f"{memory}, seed {seed}: {train(memory, seed, options)}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
