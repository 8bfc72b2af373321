"""PettingZoo's own environments: shared and separate policies, and agents that die."""

from __future__ import annotations

from typing import Any

import pettingzoo
from mpe2 import simple_spread_v3, simple_tag_v3

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, GymActorCritic, ParallelAgents


def spread() -> Any:
    return simple_spread_v3.parallel_env(max_cycles=25)


def tag() -> Any:
    return simple_tag_v3.parallel_env(max_cycles=25)


def zombies() -> Any:
    return pettingzoo.make("parallel", "butterfly/knights_archers_zombies-v11", max_cycles=400)


def trainers_of(agents: ParallelAgents) -> dict[str, Any]:
    config = PPOConfig(batch_size=300, num_epochs_per_update=4, learning_rate=1e-3, discount=0.95)
    return {
        name: PPOTrainer(config, GymActorCritic(sampler), EnvironmentReward(), sampler=sampler)
        for name, sampler in agents.samplers.items()
    }


def test_three_agents_learn_by_one_policy_to_spread() -> None:
    agents = ParallelAgents(spread, num_steps=100, num_envs=4)
    [trainer] = trainers_of(agents).values()
    first = trainer.step([0])
    assert first["num_decisions"] == 3 * 4 * 100
    assert first["episode_length"] == 25
    for _ in range(25):
        last = trainer.step([0])
    assert last["episode_return"] > first["episode_return"] + 1


def test_hunters_and_their_prey_learn_by_policies_of_their_own() -> None:
    groups = {"hunters": ["adversary_0", "adversary_1", "adversary_2"], "prey": ["agent_0"]}
    agents = ParallelAgents(tag, num_steps=50, num_envs=2, groups=groups)
    trainers = trainers_of(agents)
    for _ in range(2):
        agents.play({name: trainer.policy for name, trainer in trainers.items()})
        metrics = {name: trainer.step([0]) for name, trainer in trainers.items()}
    assert metrics["hunters"]["num_decisions"] == 3 * metrics["prey"]["num_decisions"] == 300


def test_the_dead_leave_no_gap() -> None:
    """The episodes of those who die end there, and those of the others go on."""
    agents = ParallelAgents(zombies, num_steps=500, seed=1)
    [sampler] = agents.samplers.values()
    policy = GymActorCritic(sampler)
    [[trajectory]] = sampler.sample(policy, [0], 1)
    assert trajectory.terminated.any()
    assert len(set(trajectory.episode_lengths)) > 1
    assert len(trajectory) == sum(trajectory.episode_lengths) < 4 * 500
