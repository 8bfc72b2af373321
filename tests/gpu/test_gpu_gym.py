"""Environments on the device: whole episodes and fragments, and that nothing of them mixes devices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import torch
from devices import Machine, waits_of
from pretend_device import PRETENDED, pretended_device, trained

from batched_simulator import CartPoles
from grpo import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, check_policy_model
from grpo_adapters.gym import (
    GRU,
    LSTM,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    SimulatorSampler,
)
from grpo_adapters.gym.memory.memory_states import device_of

pytestmark = pytest.mark.usefixtures("deterministic")

NUM_STEPS = 8


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_episodes(device: torch.device, name: str) -> None:
    policy = GymPolicy(EpisodeSampler(lambda: gymnasium.make(name, max_episode_steps=20), num_envs=3))
    config = GRPOConfig(device=str(device), group_size=3, batch_size=64, micro_batch_size=40)
    trainer = GRPOTrainer(config, policy, EnvironmentReward())
    before = copy.deepcopy(policy.get_parameters())
    metrics = [trainer.step([0, 1]) for _ in range(2)][-1]
    assert metrics["num_episodes"] == 12
    assert all(not torch.equal(value, before[key].to(device)) for key, value in policy.get_parameters().items())
    check_policy_model(policy, [0, 1], discrete=False, num_samples=100)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_fragments(device: torch.device, name: str) -> None:
    sampler = FragmentSampler(gymnasium.make_vec(name, num_envs=4), num_steps=16)
    policy = GymActorCritic(sampler, normalize_observations=True)
    config = PPOConfig(device=str(device), batch_size=16, num_epochs_per_update=2, target_kl=0.5)
    trainer = PPOTrainer(config, policy, EnvironmentReward())
    for _ in range(2):
        metrics = trainer.step(sampler.states)
    assert metrics["num_decisions"] >= 60
    assert policy.normalization is not None
    assert policy.normalization.mean.device == device
    assert policy.normalization.count.item() > 100
    observations, _ = gymnasium.make_vec(name, num_envs=2).reset(seed=0)
    assert len(policy.predict(observations, deterministic=False)) == 2


def test_simulators(device: torch.device) -> None:
    sampler = SimulatorSampler(CartPoles(64, str(device)), num_steps=16)
    policy = GymActorCritic(sampler, normalize_observations=True)
    trainer = PPOTrainer(PPOConfig(device=str(device), batch_size=256), policy, EnvironmentReward())
    for _ in range(2):
        metrics = trainer.step(sampler.states)
    assert metrics["num_decisions"] == 1024
    rollout = sampler.sample(policy, sampler.states, 1).actions
    assert {own.device for own in vars(rollout).values() if own is not None} == {device}


@pytest.mark.parametrize("memory", [GRU, LSTM])
def test_what_is_remembered_in_simulators_stays_on_the_device(device: torch.device, memory: Any) -> None:
    sampler = SimulatorSampler(CartPoles(64, str(device)), num_steps=16)
    policy = GymActorCritic(sampler, memory=memory(4, 8), window=4, burn_in=1)
    trainer = PPOTrainer(PPOConfig(device=str(device), batch_size=32), policy, EnvironmentReward())
    for _ in range(2):
        metrics = trainer.step(sampler.states)
    assert metrics["num_decisions"] == 1024
    rollout: Any = sampler.sample(policy, sampler.states, 1).actions
    stored = rollout.memory
    assert {stored.steps.device, stored.begins.device, device_of(stored.states)} == {device}
    whole, one_by_one = (policy.encode_actions(sampler.states, own) for own in (rollout, list(rollout)))
    evaluations = [policy.evaluate_actions(batch) for batch in (whole, one_by_one)]
    torch.testing.assert_close(evaluations[1].log_probs, evaluations[0].log_probs)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_environments(name: str) -> None:
    most = {"CartPole-v1": 30, "Pendulum-v1": 4}[name]  # the former is rewarded for its length
    with pretended_device():
        policy: GymPolicy = GymPolicy(EpisodeSampler(lambda: gymnasium.make(name, max_episode_steps=most), num_envs=3))
        config = GRPOConfig(device=str(PRETENDED), group_size=2, batch_size=8, micro_batch_size=5)
        trained(GRPOTrainer(config, policy, EnvironmentReward()), policy, [0, 1])
        sampler = FragmentSampler(gymnasium.make_vec(name, num_envs=2), num_steps=8)
        policy = GymActorCritic(sampler, normalize_observations=True)
        ppo = PPOConfig(device=str(PRETENDED), batch_size=8, num_epochs_per_update=2)
        trained(PPOTrainer(ppo, policy, EnvironmentReward()), policy, sampler.states)
        assert len(policy.predict(gymnasium.make_vec(name, num_envs=2).reset(seed=0)[0])) == 2


def fragments(device: torch.device) -> Callable[[], Any]:
    sampler = FragmentSampler(gymnasium.make_vec("Pendulum-v1", num_envs=2), num_steps=NUM_STEPS)
    config = PPOConfig(device=str(device), batch_size=None, num_epochs_per_update=1)
    trainer = PPOTrainer(config, GymActorCritic(sampler), EnvironmentReward())
    return lambda: trainer.step(sampler.states)


def test_a_step_seldom_waits(machine: Machine, figures: dict[str, Any]) -> None:
    """Twice at each step of the environments: for what is observed, and for what is done."""
    places = waits_of(fragments, machine)
    figures["waits: 8 steps in an environment"] = len(places)
    assert 2 * NUM_STEPS < len(places) <= 48, sorted(places)
