"""Atari's games of ale-py, with what is usually wrapped around them."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.cli.gym_environments import make_several
from grpo_adapters.cli.gym_presets import zoo_files
from grpo_adapters.cli.toml_files import read_toml
from grpo_adapters.gym import (
    EnvironmentReward,
    FragmentSampler,
    FrameStacks,
    GymActorCritic,
    NatureCNN,
    atari_environments,
    evaluate,
)


def short_pong(**settings: Any) -> Any:
    return atari_environments("ALE/Pong-v5", 2, max_num_frames_per_episode=240, num_threads=1, **settings)


def test_frames_reach_the_policy_as_they_are() -> None:
    sampler = FragmentSampler(short_pong(), num_steps=70, seed=1, environments_in_state="restart")
    policy = GymActorCritic(sampler)
    assert isinstance(policy.trunk, NatureCNN)
    (first,), _ = sampler.sample(policy, sampler.states, 1)
    assert isinstance(first.observations, FrameStacks)
    assert len(first.observations.frames) == 2 * (70 + 2 * 3)  # each once, and three more where an episode begins
    observations = first.observations.gathered()
    assert observations.dtype == torch.uint8
    assert observations.shape == (70, 4, 84, 84)
    assert len(first.episode_lengths) == 2
    assert not first.terminated.any()
    ends = np.cumsum(first.episode_lengths)
    following = observations[1 : ends[0], :-1]
    assert following.equal(observations[: ends[0] - 1, 1:])
    assert first.next_observations[0][:-1].equal(observations[ends[0] - 1, 1:])
    assert not first.next_observations[0].equal(observations[ends[0]])


def test_the_same_seed_gives_the_same_frames() -> None:
    seen = []
    for seed in (1, 1, 2):
        sampler = FragmentSampler(short_pong(), num_steps=20, seed=seed, environments_in_state="restart")
        (first,), _ = sampler.sample(GymActorCritic(sampler, seed=0), sampler.states, 1)
        seen.append(first.observations.gathered())
    assert seen[0].equal(seen[1])
    assert not seen[0].equal(seen[2])


def test_a_step_of_training_and_an_evaluation() -> None:
    sampler = FragmentSampler(short_pong(), num_steps=8, environments_in_state="restart")
    policy = GymActorCritic(sampler)
    metrics = PPOTrainer(PPOConfig(batch_size=8), policy, EnvironmentReward()).step(sampler.states)
    assert np.isfinite(metrics["loss"])
    result = evaluate(policy, short_pong(clip_rewards=False), 3)
    assert result.lengths.max() <= 60


@pytest.mark.parametrize("name", ["Pong-v4", "pong", "ALE/Pang-v5"])
def test_games_that_there_are_not(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected one of ale-py's \d+, such as \['ALE/"):
        atari_environments(name)
    assert "Pong" not in name.title() or atari_environments("ALE/Pong-v5", 1).num_envs == 1


def test_the_settings_of_the_zoo_see_the_same_frames() -> None:
    settings = read_toml(zoo_files()["pong"])
    sampler = FragmentSampler(make_several(settings["environment"], settings["wrappers"], 2), num_steps=10)
    (first,), _ = sampler.sample(GymActorCritic(sampler), sampler.states, 1)
    assert first.observations.gathered().shape == (10, 4, 84, 84)
    assert len(first.observations.frames) == 2 * (10 + 3)


def wrapped(game: str = "boxing") -> FragmentSampler:
    """A game whose episodes end after 30 steps, by the wrappers of the zoo."""
    wrappers = ("gymnasium.wrappers:AtariPreprocessing {}", "gymnasium.wrappers:TimeLimit {max_episode_steps = 30}")
    envs = make_several(f"ale_py:{game.title()}NoFrameskip-v4", wrappers, 2)
    return FragmentSampler(envs, num_steps=20, seed=3)


def training(sampler: FragmentSampler) -> PPOTrainer[Any, Any]:
    return PPOTrainer(PPOConfig(batch_size=20), GymActorCritic(sampler, seed=1), EnvironmentReward())


def test_games_go_on_from_a_state_as_if_nothing_had_happened() -> None:
    sampler = wrapped()
    trainer = training(sampler)
    trainer.step(sampler.states)
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    expected = [trainer.step(sampler.states) for _ in range(3)]
    fresh = training(wrapped())
    file.seek(0)
    for other in (fresh, trainer):
        other.load_state_dict(torch.load(file, weights_only=True))
        file.seek(0)
        assert [other.step(sampler.states) for _ in range(3)] == expected
    assert expected[-1]["num_episodes"] == 4


def test_a_state_of_another_game_or_of_none_is_refused() -> None:
    sampler = wrapped()
    training(sampler).step(sampler.states)
    state = sampler.state_dict()
    other = wrapped("tennis")
    training(other).step(other.states)
    with pytest.raises(ValueError, match="one of the game boxing, and loaded into tennis"):
        other.load_state_dict(state)
    nodes = state["environments"]["envs"]["nodes"]
    [first, *_] = [node for node in nodes if node["kind"] == "emulator"]
    first["state"] = first["state"][:100]
    with pytest.raises(ValueError, match="the state of the game boxing cannot be read"):
        sampler.load_state_dict(state)


def sticky(probability: float) -> FragmentSampler:
    make = partial(gymnasium.make, "ale_py:ALE/Boxing-v5", repeat_action_probability=probability)
    return FragmentSampler(SyncVectorEnv([make]), num_steps=2)


def test_sticky_actions_are_in_no_state() -> None:
    sampler, other = sticky(0.25), sticky(0.0)
    for each in (sampler, other):
        each.sample(GymActorCritic(each), each.states, 1)
    with pytest.raises(TypeError, match=r"ale repeats actions at random.*environments_in_state='restart'"):
        sampler.state_dict()
    with pytest.raises(ValueError, match="boxing without sticky actions, and loaded into one with them"):
        sampler.load_state_dict(other.state_dict())
