"""Policies outside GymPolicy in the same samplers: they play and learn as a GymPolicy of their weights does."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stepwise_policies import MatrixPolicy
from torch import nn

from batched_simulator import CartPoles
from grpo import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from grpo_adapters.gym import (
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    SimulatorSampler,
    evaluate,
)


def same_weights(policy: MatrixPolicy, environment: Any) -> GymActorCritic:
    actor, critic = (nn.Linear(4, size, bias=False) for size in (policy.distribution.num_outputs, 1))
    actor.weight.data = policy.actor.detach().t().clone()
    critic.weight.data = policy.critic.detach()[None].clone()
    return GymActorCritic(environment, actor, critic)


def vector() -> Any:
    return gymnasium.make_vec("CartPole-v1", 3, "sync", {"autoreset_mode": AutoresetMode.SAME_STEP})


def fragments() -> FragmentSampler:
    return FragmentSampler(vector(), 40)


def simulated() -> SimulatorSampler:
    return SimulatorSampler(CartPoles(3), 40)


@pytest.mark.parametrize("make", [fragments, simulated])
def test_it_learns_by_fragments_as_a_gym_policy_does(make: Any) -> None:
    samplers = make(), make()
    own = MatrixPolicy(samplers[0])
    policies: list[Any] = [own, same_weights(own, vector())]
    config = PPOConfig(batch_size=16, num_epochs_per_update=2, learning_rate=0.01)
    seen = []
    for policy, sampler in zip(policies, samplers, strict=True):
        trainer: PPOTrainer[Any, Any] = PPOTrainer(config, policy, EnvironmentReward(), sampler=sampler)
        seen.append([trainer.step(sampler.states) for _ in range(3)])
    for metrics, expected in zip(*seen, strict=True):
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert torch.allclose(own.actor, policies[1].actor.weight.t(), atol=1e-5)


def test_it_learns_by_groups_of_episodes_as_a_gym_policy_does() -> None:
    samplers = [EpisodeSampler(lambda: gymnasium.make("CartPole-v1"), 3) for _ in range(2)]
    own = MatrixPolicy(vector())
    seen = []
    policies: list[Any] = [own, same_weights(own, vector())]
    for policy, sampler in zip(policies, samplers, strict=True):
        trainer: GRPOTrainer[Any, Any] = GRPOTrainer(
            GRPOConfig(group_size=3), policy, EnvironmentReward(), sampler=sampler
        )
        seen.append([trainer.step([1, 2]) for _ in range(2)])
    for metrics, expected in zip(*seen, strict=True):
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("deterministic", [True, False])
def test_it_is_evaluated_as_a_gym_policy_is(deterministic: bool) -> None:
    own = MatrixPolicy(vector())
    policies: list[Any] = [own, same_weights(own, vector())]
    results = [evaluate(policy, gymnasium.make("CartPole-v1"), 5, deterministic=deterministic) for policy in policies]
    assert np.array_equal(results[0].lengths, results[1].lengths)


def test_evaluation_gives_a_policy_its_mode_back() -> None:
    policy = GymActorCritic(gymnasium.make("CartPole-v1"))
    for mode in (True, False):
        policy.train(mode)
        evaluate(policy, gymnasium.make("CartPole-v1"), 1)
        assert policy.training is mode


class Undecided:
    def __init__(self, environment: Any) -> None:
        self.observation_space = environment.single_observation_space
        self.action_space = environment.single_action_space


class WithoutSpace(MatrixPolicy):
    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.action_space = 2


@pytest.mark.parametrize("make", [fragments, simulated])
def test_what_a_policy_lacks_is_named(make: Any) -> None:
    sampler = make()
    name = type(sampler).__name__
    undecided: Any = Undecided(sampler)
    network: Any = nn.Linear(4, 2)
    with pytest.raises(TypeError, match=f"{name} was given .* Undecided, which lacks decide, .*generator.*add them"):
        sampler.sample(undecided, sampler.states, 1)
    with pytest.raises(TypeError, match=r"WithoutSpace\.action_space is a int, expected a gymnasium\.Space"):
        sampler.sample(WithoutSpace(sampler), sampler.states, 1)
    with pytest.raises(TypeError, match="type Linear, which lacks action_space, decide, device, distribution"):
        evaluate(network, gymnasium.make("CartPole-v1"), 1)
