"""GRPO on CartPole on a Ray cluster: processes that train together, and actors on CPUs that play and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import gymnasium
import ray
import torch
import tyro
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from grpo import Checkpoints, GRPOConfig, GRPOTrainer, Run, Until, World
from grpo_adapters.gym import EpisodeSampler, GymPolicy, Trajectory, evaluate
from ray_actors import ActorReward, Actors, ActorSampler

STARTS, EPISODES = 4, 8  # of a step: states, and the group of each
make_environment = partial(gymnasium.make, "CartPole-v1")


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    address: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Of a cluster that is there, auto for the one that this machine belongs to; None starts one."""
    workers: int = 2
    """Processes that train together, each on a CPU or, with --gpu, on a GPU."""
    gpu: bool = False
    """Train on GPUs."""
    players: int = 2
    """Actors of each worker that play."""
    judges: int = 1
    """Actors of each worker that score what was played."""
    steps: int = 40
    """Rollouts to train on."""
    timeout: float = 300.0
    """Seconds that a worker waits for its actors, or for the other workers."""
    seed: int = 0
    """Of everything that is random."""
    output: Path = Path("outputs/ray")
    """Folder that all machines see, for the run and its weights; the same again goes on from there."""


def make_policy(seed: int) -> GymPolicy:
    return GymPolicy(make_environment(), seed=seed)


def make_config(seed: int) -> GRPOConfig:
    return GRPOConfig(group_size=EPISODES, learning_rate=1e-3, batch_size=256, num_epochs_per_update=10, seed=seed)


def states_of(step: int, seed: int) -> range:
    """Starts that never come again."""
    return range(1_000_000 * seed + STARTS * step, 1_000_000 * seed + STARTS * (step + 1))


class Player:
    """Plays groups of episodes, with noise that depends on their start alone."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.policy = GymPolicy(EpisodeSampler(make_environment, num_envs=EPISODES))

    def play(self, weights: dict[str, Tensor], state: int, count: int) -> Sequence[Trajectory]:
        self.policy.load_state_dict(weights)
        self.policy.generator.manual_seed(state)
        [group] = self.policy.generate_actions([state], count)
        return group


class Judge:
    """Wants the cart in the middle; stands for whatever takes long to say how good something is."""

    def score(self, states: Sequence[int], actions: Sequence[Trajectory]) -> Tensor:
        """Rewards of all steps: 1 in the middle, 0 at the end of the track, 2.4 from it."""
        return torch.cat([1 - trajectory.observations[:, 0].abs() / 2.4 for trajectory in actions])


def train(options: Options) -> None:
    """What each worker does, which is what one process would do."""
    torch.set_num_threads(1)
    players = Actors(Player, count=options.players, timeout=options.timeout)
    judges = Actors(Judge, count=options.judges, timeout=options.timeout)
    world = World.from_environment(timeout=options.timeout)  # Ray Train has started torch.distributed
    config, policy = make_config(options.seed), make_policy(options.seed)
    trainer = GRPOTrainer(config, policy, ActorReward(judges), sampler=ActorSampler(players), world=world)
    states, folder = partial(states_of, seed=options.seed), options.output / "run"
    run = Run(trainer, states, folder=folder, checkpoints=Checkpoints(every=10))
    run.resume()
    run(Until(steps=options.steps))
    if world.rank == 0:
        torch.save(policy.state_dict(), options.output / "weights.pt")


def main(options: Options) -> None:
    """Train on the cluster, and say what was learnt on fresh episodes."""
    output = options.output.resolve()  # workers have folders of their own
    num_cpus = None if options.address else options.workers * (1 + options.players + options.judges)
    ray.init(options.address, num_cpus=num_cpus, include_dashboard=False)
    trainer = TorchTrainer(
        partial(train, replace(options, output=output)),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        torch_config=TorchConfig(timeout_s=int(options.timeout)),
        run_config=RunConfig(storage_path=str(output), failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()
    policy = make_policy(seed=0)
    policy.load_state_dict(torch.load(output / "weights.pt", weights_only=True))
    print(f"{options.workers} workers: {evaluate(policy, make_environment(), 100, seed=2_000_000)}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
