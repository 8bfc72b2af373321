"""Ways to train on LunarLander, which differ in what a decision is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import gymnasium
from gymnasium.vector import AutoresetMode

from anchor_states import AnchorStates
from branching_episodes import BranchingEpisodes
from grpo import (
    AdvantageEstimator,
    GroupRelative,
    GRPOConfig,
    GRPOTrainer,
    MonteCarlo,
    PPOConfig,
    PPOTrainer,
    group_time_baseline,
)
from grpo_adapters.gym import (
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    RegressedAdvantage,
)

SEEDS_OF_A_TRAINING = 1_000_000
WIDTH_OF_AN_ANCHOR = 0.2
make_environment = partial(gymnasium.make, "LunarLander-v3")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How to train.

    Attributes:
        credit: what a decision is compared with; critic is PPO.
        starts: new ones for all groups; branches, new ones for half of the groups and states along the episodes of
            these for the others; or environments that go on where they were.
        num_groups: groups in a step, or environments that go on.
        group_size: episodes of a group.
        num_steps: in each environment that goes on.
        discount: γ of what comes after a decision.
        gae_lambda: λ of generalised advantages.
        entropy_coefficient: of the bonus.
        batch_size: decisions of an update.
        learning_rate: of Adam.
    """

    credit: Literal["episode", "time", "anchors", "state", "critic"]
    starts: Literal["new", "branches", "going on"] = "new"
    num_groups: int = 2
    group_size: int = 8
    num_steps: int = 1024
    discount: float = 0.999
    gae_lambda: float = 0.98
    entropy_coefficient: float = 0.0
    batch_size: int = 64
    learning_rate: float = 3e-4


def build(setup: Setup, seed: int) -> tuple[Any, Callable[[int], list[int]]]:
    """A trainer, and the states of each of its steps."""
    first = seed * SEEDS_OF_A_TRAINING
    sampler = sampler_of(setup, first)
    policy: Any = GymActorCritic(sampler, seed=seed) if setup.credit == "critic" else GymPolicy(sampler, seed=seed)

    def states(step: int) -> list[int]:
        if isinstance(sampler, FragmentSampler):
            return sampler.states
        return list(range(first + step * setup.num_groups, first + (step + 1) * setup.num_groups))

    return trainer_of(setup, policy, seed), states


def sampler_of(setup: Setup, seed: int) -> EpisodeSampler | FragmentSampler:
    """Plays in the environments."""
    if setup.starts == "going on":
        makers = [make_environment] * setup.num_groups
        envs = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        return FragmentSampler(envs, setup.num_steps, seed=seed, environments_in_state="restart")
    num_envs = setup.num_groups * setup.group_size
    if setup.starts == "branches":
        return BranchingEpisodes(make_environment, num_envs, seed)
    return EpisodeSampler(make_environment, num_envs)


def trainer_of(setup: Setup, policy: Any, seed: int) -> Any:
    """PPO or GRPO."""
    common: dict[str, Any] = {
        "batch_size": setup.batch_size,
        "learning_rate": setup.learning_rate,
        "entropy_coefficient": setup.entropy_coefficient,
        "num_epochs_per_update": 4,
        "max_grad_norm": 0.5,
        "seed": seed,
    }
    if setup.credit == "critic":
        own = PPOConfig(discount=setup.discount, gae_lambda=setup.gae_lambda, **common)
        return PPOTrainer(own, policy, EnvironmentReward())
    config = GRPOConfig(
        group_size=setup.group_size, loss_averaging="per_decision", advantage_normalization="per_step", **common
    )
    return GRPOTrainer(config, policy, EnvironmentReward(), advantage_estimator=credit_of(setup))


def credit_of(setup: Setup) -> AdvantageEstimator:
    """GRPO's."""
    match setup.credit:
        case "episode":
            return GroupRelative()
        case "time":
            return MonteCarlo(discount=setup.discount, baseline=group_time_baseline)
        case "anchors":
            return AnchorStates(discount=setup.discount, width=WIDTH_OF_AN_ANCHOR)
        case _:
            return RegressedAdvantage(discount=setup.discount, gae_lambda=setup.gae_lambda)


PPO = Setup(credit="critic", starts="going on", num_groups=16, group_size=1)
SETUPS = {
    "ppo": PPO,
    "ppo-entropy": replace(PPO, entropy_coefficient=0.01),
    "state": Setup(credit="state"),
    "state-entropy": Setup(credit="state", entropy_coefficient=0.01),
    "state-branches": Setup(credit="state", starts="branches"),
    "branches": Setup(credit="time", discount=0.99, starts="branches"),
    "time": Setup(credit="time", discount=0.99),
    "anchors": Setup(credit="anchors", discount=0.99),
    "episode": Setup(credit="episode"),
    "episode-32": Setup(credit="episode", num_groups=1, group_size=32),
}
TOLD = {
    "ppo": "what a critic expects: PPO",
    "ppo-entropy": "the same, with an entropy bonus of 0.01",
    "state": "steps in like states, of all episodes",
    "state-entropy": "the same, with an entropy bonus of 0.01",
    "state-branches": "the same; half of the groups branch off along episodes",
    "branches": "the same step of the group; half of the groups branch off along episodes",
    "time": "the same step of the group",
    "anchors": "the whole group, and its steps in equal states (GiGPO)",
    "episode": "the whole group",
    "episode-32": "the whole group",
}
