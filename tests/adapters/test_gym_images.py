"""Frames: kept as they are and once, scaled once, understood whether channels are first or last."""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import FramesEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import (
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    ImpalaCNN,
    NatureCNN,
    RunningNormalization,
    TrajectoryBatch,
    evaluate,
)
from grpo_adapters.gym.environments import atari
from grpo_adapters.gym.networks import perceptrons
from grpo_adapters.gym.policies import gym_policy


def frames(shape: tuple[int, ...] = (4, 84, 84), num_envs: int = 2, length: int = 7) -> SyncVectorEnv:
    mode = AutoresetMode.SAME_STEP
    return SyncVectorEnv([lambda: FramesEnv(shape, length)] * num_envs, autoreset_mode=mode)


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


LAYOUTS = [
    ((48, 40), (1, 48, 40)),
    ((4, 48, 40), (4, 48, 40)),
    ((48, 40, 3), (3, 48, 40)),
    ((4, 48, 40, 3), (12, 48, 40)),
]


@pytest.mark.parametrize("network", [NatureCNN, ImpalaCNN])
@pytest.mark.parametrize(("shape", "sizes"), LAYOUTS)
def test_channels_are_found_wherever_they_are(network: Any, shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    built = network(image(*shape), num_units=5)
    assert built.layout.sizes == sizes
    assert built(torch.rand(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("network", [NatureCNN, ImpalaCNN])
def test_channels_last_give_the_units_of_channels_first(network: Any) -> None:
    first, last = network(image(3, 40, 38)), network(image(40, 38, 3))
    pictures = torch.rand(2, 3, 40, 38)
    torch.testing.assert_close(first(pictures), last(pictures.permute(0, 2, 3, 1)))


def test_a_stack_of_coloured_frames_is_frame_by_frame() -> None:
    layout = NatureCNN(image(2, 40, 38, 3)).layout
    pictures = torch.rand(1, 2, 40, 38, 3)
    assert layout.arranged(pictures)[0, 4].equal(pictures[0, 1, :, :, 1])


def test_nature_is_the_network_of_the_paper() -> None:
    network = NatureCNN(image(4, 84, 84))
    sizes = {name: [*parameter.shape] for name, parameter in network.named_parameters() if "weight" in name}
    assert list(sizes.values()) == [[32, 4, 8, 8], [64, 32, 4, 4], [64, 64, 3, 3], [512, 7 * 7 * 64]]
    impala = ImpalaCNN(image(4, 84, 84))
    assert sum(isinstance(layer, nn.Conv2d) for layer in impala.modules()) == 15
    assert impala.last.weight.shape == (256, 11 * 11 * 32)


WRONG = [
    (lambda: NatureCNN(image(40, 40, 40)), ValueError, "does not tell whether channels are first or last: say it"),
    (lambda: NatureCNN(image(3, 40, 3)), ValueError, "does not tell whether channels are first or last"),
    (lambda: NatureCNN(image(35, 84, 3)), ValueError, r"frames of 35 by 84, expected at least 36 by 36.*ImpalaCNN"),
    (lambda: NatureCNN(spaces.Box(0, 1, (5,))), TypeError, "expected a Box of frames"),
    (lambda: ImpalaCNN(spaces.Discrete(5)), TypeError, "expected a Box of frames"),
    (lambda: GymPolicy(FramesEnv((5, 5, 5))), ValueError, "does not tell whether channels are first or last"),
]


@pytest.mark.parametrize(("build", "kind", "message"), WRONG)
def test_frames_that_are_not_understood(build: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        build()


def test_channels_are_first_or_last() -> None:
    middle: Any = "middle"
    with pytest.raises(ValueError, match="channels is 'middle', expected 'first' or 'last', or None"):
        NatureCNN(image(40, 36, 40), channels=middle)


def test_what_the_errors_advise_works() -> None:
    assert NatureCNN(image(40, 40, 40), channels="last").layout.sizes == (40, 40, 40)
    assert ImpalaCNN(image(35, 84, 3))(torch.rand(1, 35, 84, 3)).shape == (1, 256)
    trunk = ImpalaCNN(image(5, 5, 5), channels="last")
    assert GymPolicy(FramesEnv((5, 5, 5)), trunk=trunk).predict(np.zeros((1, 5, 5, 5), np.uint8)).shape == (1,)
    moved = gymnasium.wrappers.TransformObservation(
        FramesEnv((40, 40, 3)), lambda frame: np.moveaxis(frame, -1, 0), image(3, 40, 40)
    )
    assert len(evaluate(GymPolicy(FramesEnv((3, 40, 40))), moved, 1).returns) == 1


def test_frames_with_channels_at_the_other_end_are_refused() -> None:
    policy = GymPolicy(FramesEnv((3, 40, 40)))
    with pytest.raises(ValueError, match=r"shape \[40, 40, 3\], expected \[3, 40, 40\].*channels are first in one"):
        policy.predict(np.zeros((2, 40, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="was built for observations"):
        evaluate(policy, FramesEnv((40, 40, 3)), 1)
    with pytest.raises(ValueError, match=r"frames came in shape \[40, 40, 3\], expected \[3, 40, 40\]"):
        NatureCNN(image(3, 40, 40))(torch.rand(2, 40, 40, 3))


@pytest.mark.parametrize("wrong", [np.full((1, 40, 40), 0.5), np.full((1, 40, 40), 256), np.full((1, 40, 40), -1)])
def test_pixels_that_no_byte_holds_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"an image came as .* expected uint8 from 0 to 255"):
        GymPolicy(FramesEnv((40, 40))).predict(wrong)
    scaled = spaces.Box(0, 1, (40, 40), np.float32)
    bright = gymnasium.wrappers.TransformObservation(FramesEnv((40, 40)), lambda frame: frame / np.float32(255), scaled)
    with pytest.raises(ValueError, match="was built for observations"):
        evaluate(GymPolicy(FramesEnv((40, 40))), bright, 1)


def test_a_policy_for_images_has_a_trunk_of_its_own() -> None:
    large, small = GymActorCritic(FramesEnv()), GymActorCritic(FramesEnv((7, 7, 3)))
    assert isinstance(large.trunk, NatureCNN)
    assert isinstance(small.trunk, ImpalaCNN)
    assert sum("trunk" in name for name in large.get_parameters()) == 8
    own = GymPolicy(FramesEnv((7, 7, 3)), actor=nn.Sequential(nn.Flatten(), nn.Linear(147, 3)))
    assert own.trunk is None


class Sees(nn.Module):
    """Notes what it was given, and how many frames at most."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        self.most = 0
        self.seen: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        self.most = max(self.most, len(features))
        self.seen = features.detach()
        units: Tensor = self.layer(features.flatten(1))
        return units


def test_pixels_are_scaled_once() -> None:
    trunk = Sees()
    policy = GymPolicy(FramesEnv((4, 4)), trunk=trunk)
    policy.predict(np.full((1, 4, 4), 51, np.uint8))
    assert trunk.seen is not None
    torch.testing.assert_close(trunk.seen, torch.full((1, 4, 4), 0.2))


def test_without_gradients_the_trunk_sees_some_frames_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = Sees()
    sampler = FragmentSampler(frames((4, 4)), num_steps=20)
    policy = GymActorCritic(sampler, trunk=trunk)
    played = [replace(group[0], sampled=None) for group in policy.generate_actions(sampler.states, 1)]
    batch = policy.encode_actions([0, 1], played)
    values, at_once = policy.estimate_values(batch), policy.evaluate_actions(batch)
    assert trunk.most == 40
    monkeypatch.setattr(gym_policy, "ROWS_AT_A_TIME", 7)
    trunk.most = 0
    torch.testing.assert_close(policy.estimate_values(batch).values, values.values)
    with torch.no_grad():
        torch.testing.assert_close(policy.evaluate_actions(batch).log_probs, at_once.log_probs.detach())
    assert trunk.most == 7


def storage(tensor: Tensor) -> tuple[int, int]:
    return tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()


@pytest.mark.parametrize("episodes", [True, False])
def test_a_rollout_keeps_its_frames_once_and_a_batch_shares_them(*, episodes: bool) -> None:
    shape, steps, num_envs, length = (4, 60, 60), 56, 2, 14
    if episodes:
        sampler: Any = EpisodeSampler(lambda: FramesEnv(shape, length), num_envs=num_envs)
        states = list(range(steps * num_envs // length))
    else:
        sampler = FragmentSampler(frames(shape, num_envs, length), num_steps=steps)
        states = sampler.states
    policy = GymPolicy(sampler, trunk=nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2)))
    frame_bytes = steps * num_envs * int(np.prod(shape))
    sampler.sample(policy, states, 1)  # what is made once
    tracemalloc.start()
    groups = sampler.sample(policy, states, 1)
    trajectories = [trajectory for group in groups for trajectory in group]
    kept, peak = tracemalloc.get_traced_memory()
    batch = policy.encode_actions(states, trajectories)
    with_batch, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1.3 * frame_bytes
    assert episodes or peak < 1.3 * frame_bytes
    assert with_batch - kept < 0.2 * frame_bytes
    assert batch.observations.dtype == torch.uint8
    assert {storage(trajectory.observations) for trajectory in trajectories} == {storage(batch.observations)}
    assert storage(batch.observations)[1] == frame_bytes


def test_frames_of_any_memory_layout_are_joined_in_order() -> None:
    sampler = FragmentSampler(frames((5, 4)), num_steps=9)
    policy = GymPolicy(sampler)
    trajectories = [group[0] for group in sampler.sample(policy, sampler.states, 1)]
    expected = torch.cat([trajectory.observations for trajectory in reversed(trajectories)])
    batch = TrajectoryBatch.of(trajectories[::-1], policy.device, policy.dtype)
    assert isinstance(batch.observations, Tensor)
    assert batch.observations.equal(expected)


def test_normalisation_takes_some_frames_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptrons, "NUMBERS_AT_A_TIME", 3 * 16)
    sampler = FragmentSampler(frames((4, 4)), num_steps=10)
    policy = GymPolicy(sampler, normalize_observations=True)
    batch = policy.encode_actions([0, 1], [group[0] for group in sampler.sample(policy, [0, 1], 1)])
    policy.update_statistics(batch)
    assert isinstance(batch.observations, Tensor)
    assert isinstance(policy.normalization, RunningNormalization)
    scaled = batch.observations.double() / 255
    torch.testing.assert_close(policy.normalization.mean, scaled.mean(0))
    torch.testing.assert_close(policy.normalization.variance, scaled.var(0, correction=0))


def test_a_training_step_moves_the_trunk() -> None:
    sampler = FragmentSampler(frames((36, 36)), num_steps=8)
    policy = GymActorCritic(sampler)
    before = {name: parameter.clone() for name, parameter in policy.get_parameters().items()}
    metrics = PPOTrainer(PPOConfig(batch_size=8), policy, EnvironmentReward()).step(sampler.states)
    assert np.isfinite(metrics["loss"])
    unmoved = [name for name, parameter in policy.get_parameters().items() if parameter.equal(before[name])]
    assert unmoved == []
    result = evaluate(policy, lambda: FramesEnv((36, 36)), 3, num_envs=2)
    assert re.search("over 3 episodes", str(result))


def test_atari_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atari, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'anygrpo\[atari\]'"):
        atari.atari_environments("ALE/Pong-v5")
