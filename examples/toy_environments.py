"""PPO, GRPO, REINFORCE or DPO on a random walk or a grid with obstacles, where the best return is known."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import gymnasium
import tyro

import environments  # noqa: F401 - registers what it holds with gymnasium
from environments.grid_world import optimal_return
from grpo import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    LinearSchedule,
    MonteCarlo,
    PPOConfig,
    PPOTrainer,
    PreferenceCollector,
    ReferenceSync,
    ReinforceConfig,
    ReinforceTrainer,
    group_time_baseline,
)
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy, Trajectory
from learning import Advance, Learner, Run, learn, report, run_seeds, save_learning_curves

IDS = {"random-walk": "anygrpo/RandomWalk-v0", "grid": "anygrpo/GridWorld-v0"}
OPTIMAL_RETURNS = {"random-walk": 1.0, "grid": optimal_return()}
EPISODES_PER_UPDATE = 32
GROUP_SIZE = 8
PPO_ENVS, PPO_STEPS = 8, 64


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    algorithm: Literal["ppo", "grpo", "reinforce", "dpo"] = "ppo"
    """How to train."""
    environment: Literal["random-walk", "grid"] = "random-walk"
    """What to train on."""
    steps: int = 100_000
    """Environment steps to train on."""
    learning_rate: float = 3e-3
    """Learning rate; that of PPO falls to 0."""
    seeds: Annotated[int, tyro.conf.arg(metavar="COUNT")] = 3
    """Trainings, each with a seed of its own."""
    output: Path = Path("outputs")
    """Folder for the figure."""


def train(options: Options, seed: int, advance: Advance) -> Run:
    """One training."""
    trainings = {"ppo": train_ppo, "grpo": train_grpo, "reinforce": train_reinforce, "dpo": train_dpo}
    return trainings[options.algorithm](options, seed, advance)


def train_ppo(options: Options, seed: int, advance: Advance) -> Run:
    """With a critic, on fragments of running environments.

    Where every episode is as good as can be, advantages are nothing but the critic's noise, and PPO scales them up to a
    standard deviation of 1: only a learning rate that falls to 0 lets the policy rest there.
    """
    envs = gymnasium.make_vec(IDS[options.environment], num_envs=PPO_ENVS, vectorization_mode="sync")
    sampler = FragmentSampler(envs, num_steps=PPO_STEPS, seed=seed)
    policy = GymActorCritic(sampler, seed=seed)
    num_updates = max(1, options.steps // (PPO_ENVS * PPO_STEPS))
    config = PPOConfig(
        batch_size=128,
        learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=num_updates),
        entropy_coefficient=0.01,
        seed=seed,
    )
    return finish(PPOTrainer(config, policy, EnvironmentReward()), policy, options, seed, advance)


def train_grpo(options: Options, seed: int, advance: Advance) -> Run:
    """Whole episodes in groups, each step credited against the others of its group at the same time.

    With the return of the whole episode, GRPO's usual credit, a walk that wanders before it wins is as good as one that
    does not; the discount tells them apart.
    """
    policy = GymPolicy(episode_sampler(options), seed=seed)
    config = GRPOConfig(
        group_size=GROUP_SIZE,
        batch_size=128,
        num_epochs_per_update=4,
        learning_rate=options.learning_rate,
        entropy_coefficient=0.01,
        loss_averaging="per_decision",
        advantage_normalization="per_step",
        seed=seed,
    )
    estimator = MonteCarlo(discount=0.99, baseline=group_time_baseline)
    trainer = GRPOTrainer(config, policy, EnvironmentReward(), advantage_estimator=estimator)
    return finish(trainer, policy, options, seed, advance, group_size=GROUP_SIZE)


def train_reinforce(options: Options, seed: int, advance: Advance) -> Run:
    """Whole episodes, each step credited for what came after it."""
    policy = GymPolicy(episode_sampler(options), seed=seed)
    config = ReinforceConfig(learning_rate=options.learning_rate, entropy_coefficient=0.01, seed=seed)
    return finish(ReinforceTrainer(config, policy, EnvironmentReward()), policy, options, seed, advance)


def train_dpo(options: Options, seed: int, advance: Advance) -> Run:
    """Whole episodes in groups, of which the best is preferred to the worst; by how much is not told.

    A round compares with the policy that played it. Each pair then starts with a margin of 0, where the loss is
    steepest, whatever earlier rounds have done; against the initial policy, pairs like those already learnt would weigh
    less and less. On these two tasks either will do.
    """
    sampler = episode_sampler(options)
    policy = GymPolicy(sampler, seed=seed)
    config = DPOConfig(
        num_epochs_per_update=4,
        learning_rate=options.learning_rate,
        reference_sync=ReferenceSync(mixing=1.0, every=1),
        seed=seed,
    )
    rounds = PreferenceRounds(policy, sampler, DPOTrainer(config, policy, copy.deepcopy(policy)))
    return finish(rounds, policy, options, seed, advance, group_size=GROUP_SIZE)


class PreferenceRounds:
    """Plays groups of episodes and lets DPO learn from the pairs that they give.

    Args:
        policy: decides.
        sampler: plays.
        trainer: trains the policy.
    """

    def __init__(
        self, policy: GymPolicy, sampler: EpisodeSampler, trainer: DPOTrainer[Sequence[int], Sequence[Trajectory]]
    ) -> None:
        self.sampler = sampler
        self.trainer = trainer
        self.collector = PreferenceCollector(policy, EnvironmentReward(), sampler=sampler, group_size=GROUP_SIZE)

    def step(self, states: list[int]) -> dict[str, float]:
        """Play a group from each seed and update the policy, unless the returns within each group are all equal.

        The metrics are those of all that was played, whether it is in a pair or not.
        """
        collected = self.collector.collect(states)
        if collected.preferences:
            self.trainer.step(collected.preferences)
        return self.sampler.get_metrics() | collected.metrics


def episode_sampler(options: Options) -> EpisodeSampler:
    """Plays whole episodes side by side."""
    return EpisodeSampler(partial(gymnasium.make, IDS[options.environment]), EPISODES_PER_UPDATE)


def finish(
    learner: Learner,
    policy: GymPolicy,
    options: Options,
    seed: int,
    advance: Advance,
    *,
    group_size: int = 1,
) -> Run:
    """Train to the end."""
    starts = count(seed * options.steps)
    num_states = EPISODES_PER_UPDATE // group_size
    sampler = policy.sampler
    return learn(
        learner,
        policy,
        lambda: sampler.states if isinstance(sampler, FragmentSampler) else [next(starts) for _ in range(num_states)],
        gymnasium.make(IDS[options.environment]),
        advance,
        seed=seed,
        max_steps=options.steps,
    )


def main(options: Options) -> None:
    """Train with every seed, and show what was learnt."""
    for name in ("steps", "seeds"):
        if getattr(options, name) < 1:
            raise SystemExit(f"--{name} is {getattr(options, name)}, expected at least 1")
    name = options.algorithm.upper()
    best = OPTIMAL_RETURNS[options.environment]
    runs = {name: run_seeds(partial(train, options), options.seeds, name)}
    title = f"{name} on the {options.environment.replace('-', ' ')}"
    report(f"{title}: the best return is {best:g}", runs, best)
    file = f"toy_{options.environment}_{options.algorithm}.png"
    save_learning_curves(options.output / file, title, runs, best)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
