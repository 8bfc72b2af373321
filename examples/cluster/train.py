"""GRPO on CartPole, in however many processes there are; called again, it goes on from where it was ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gymnasium
import torch
import tyro

from grpo import Checkpoints, GRPOConfig, GRPOTrainer, Run, Until, World
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, GymPolicy


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    folder: Path = Path("outputs/cluster")
    """Where the run writes; all machines see it."""
    steps: int = 100
    """Rollouts to train on."""
    starts: int = 8
    """Of a rollout, all processes together; 8 episodes are played from each."""


def main(options: Options) -> None:
    torch.set_num_threads(1)
    world = World.from_environment()
    policy = GymPolicy(EpisodeSampler(partial(gymnasium.make, "CartPole-v1"), num_envs=32))
    config = GRPOConfig(group_size=8, learning_rate=1e-3, batch_size=256, num_epochs_per_update=4)
    trainer = GRPOTrainer(config, policy, EnvironmentReward(), world=world)

    def states(step: int) -> range:
        return range(options.starts * step, options.starts * (step + 1))

    run = Run(trainer, states, folder=options.folder, checkpoints=Checkpoints(every=20))
    run.resume()
    began = run.num_steps
    run(Until(steps=options.steps))
    if world.rank == 0:
        print(f"{world.size} processes, steps {began} to {run.num_steps}: length {run.metrics['episode_length']:.0f}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
