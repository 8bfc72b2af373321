"""Stacked frames are stored once, and what is learnt from them is what whole stacks would teach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gym_environments import FramesEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, FrameStacks, GymActorCritic
from grpo_adapters.gym.observations.columns import joined
from grpo_adapters.gym.observations.frame_stacks import gathered
from grpo_adapters.gym.playing import observation_stores
from grpo_adapters.gym.playing.observation_stores import ObservationStore

NUM_STEPS, NUM_ENVS, NUM_STACKED, SIZE, LENGTH = 40, 3, 4, 6, 17


def sampler(mode: AutoresetMode = AutoresetMode.SAME_STEP) -> FragmentSampler:
    envs = SyncVectorEnv(
        [lambda: FrameStackObservation(FramesEnv((SIZE, SIZE), LENGTH), NUM_STACKED)] * NUM_ENVS, autoreset_mode=mode
    )
    return FragmentSampler(envs, NUM_STEPS)


def policy_for(own: FragmentSampler) -> GymActorCritic:
    torch.manual_seed(0)
    return GymActorCritic(own, trunk=nn.Sequential(nn.Flatten(), nn.Linear(NUM_STACKED * SIZE * SIZE, 8), nn.Tanh()))


def played(own: FragmentSampler, rollouts: int = 2) -> list[Any]:
    policy = policy_for(own)
    return [group[0] for _ in range(rollouts) for group in own.sample(policy, own.states, 1)]


def without_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation_stores, "MOST_FRAMES_OF_A_STACK", 0)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_the_stacks_of_a_rollout_are_those_that_came(mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = played(sampler(mode))
    without_sharing(monkeypatch)
    for own, whole in zip(shared, played(sampler(mode)), strict=True):
        assert isinstance(own.observations, FrameStacks)
        assert isinstance(whole.observations, Tensor)
        assert own.observations.gathered().equal(whole.observations)
        assert own.decisions.equal(whole.decisions)


def test_a_frame_is_stored_once() -> None:
    trajectories = played(sampler(), rollouts=1)
    [storage] = {part.observations.frames.untyped_storage().data_ptr() for part in trajectories}
    batch = policy_for(sampler()).encode_actions([0, 1, 2], trajectories)
    assert batch.stored_observations.frames.untyped_storage().data_ptr() == storage
    num_episodes = sum(len(part.episode_lengths) for part in trajectories)
    assert len(batch.stored_observations.frames) == NUM_STEPS * NUM_ENVS + (NUM_STACKED - 1) * num_episodes


def test_training_on_shared_frames_is_training_on_whole_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PPOConfig(batch_size=16, num_epochs_per_update=2, learning_rate=0.01)
    seen = []
    for sharing in (True, False):
        if not sharing:
            without_sharing(monkeypatch)
        own = sampler()
        policy = policy_for(own)
        trainer: PPOTrainer[Any, Any] = PPOTrainer(config, policy, EnvironmentReward())
        trainer.step(own.states)
        trainer.step(own.states)
        seen.append([parameter.detach().clone() for parameter in policy.parameters()])
    assert all(left.equal(right) for left, right in zip(*seen, strict=True))


@given(data=st.data())
def test_whatever_comes_is_given_back(data: st.DataObject) -> None:
    num_steps, num_envs = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    num_stacked = data.draw(st.integers(2, 5))
    seed, share_of_others = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    random = np.random.default_rng(seed)
    real = random.random((num_steps, num_envs)) < data.draw(st.sampled_from([1.0, 0.7]))

    def frames(*shape: int) -> Any:
        return random.integers(0, data.draw(st.sampled_from([2, 256])), (*shape, 2, 1), dtype=np.uint8)

    stacks = [frames(num_envs, num_stacked)]
    for _ in range(num_steps - 1):
        following = np.concatenate([stacks[-1][:, 1:], frames(num_envs, 1)], axis=1)
        other = random.random(num_envs) < share_of_others
        following[other] = frames(int(other.sum()), num_stacked)
        stacks.append(following)
    store = ObservationStore(num_steps, stacks[0])
    for step, observations in enumerate(stacks):
        store.store(step, observations.copy())
    for slot, own in enumerate(store.of_real_steps(real)):
        expected = np.stack([stacks[step][slot] for step in range(num_steps)])[real[:, slot]]
        assert np.array_equal(gathered(own).numpy(), expected)


def test_frames_that_are_no_stack_are_kept_as_they_are() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (30, 2, 3, 5, 5), dtype=np.uint8)
    store = ObservationStore(30, pictures[0])
    for step, observations in enumerate(pictures):
        store.store(step, observations)
    kept = store.of_real_steps(np.ones((30, 2), dtype=bool))
    assert all(isinstance(own, Tensor) for own in kept)
    assert np.array_equal(kept[1].numpy(), pictures[:, 1])


def test_trajectories_of_several_rollouts_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [trajectory.observations for trajectory in played(sampler())]
    together = joined(shared)
    assert isinstance(together, FrameStacks)
    expected = torch.cat([part.gathered() for part in shared])
    assert together.gathered().equal(expected)
    assert joined([shared[0].gathered(), *shared[1:]]).equal(expected)
    assert joined([shared[0], shared[1].gathered(), *shared[2:]]).equal(expected)
    assert torch.cat([part.gathered() for part in together.split(7)]).equal(expected)
    assert together[torch.tensor([5, 2])].gathered().equal(expected[[5, 2]])
