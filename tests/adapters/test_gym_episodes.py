"""Groups of whole episodes: they start from one state, whoever plays them, and come in the order of the states."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import EPISODES, ExactCritic, MatchingEnv, ParityActor, ScriptedEnv, scripted_steps_between

from grpo import GeneralizedAdvantage, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, GymActorCritic, GymPolicy, Trajectory

SEEDS = [3, 0, 5, 1, 3, 2]


def scripted(num_envs: int) -> GymPolicy:
    return GymPolicy(EpisodeSampler(ScriptedEnv, num_envs), ParityActor())


def test_episodes_are_those_of_the_script() -> None:
    for group, seed in zip(scripted(4).generate_actions(SEEDS, 2), SEEDS, strict=True):
        assert len(group) == 2
        rewards, terminates = EPISODES[seed % len(EPISODES)]
        steps = scripted_steps_between(seed, 0, len(rewards))
        for episode in group:
            assert episode.observations.tolist() == [list(step.observation) for step in steps]
            assert episode.decisions.tolist() == [step.action for step in steps]
            assert episode.rewards.tolist() == [step.reward for step in steps]
            assert episode.episode_lengths == (len(rewards),)
            assert episode.next_observations.tolist() == [list(steps[-1].next_observation)]
            assert episode.terminated.tolist() == [terminates]
            assert episode.masks is None


def same(left: Trajectory, right: Trajectory) -> bool:
    return torch.equal(left.observations, right.observations) and torch.equal(left.rewards, right.rewards)


@pytest.mark.parametrize("num_envs", [1, 2, 5, 40])
def test_groups_do_not_depend_on_how_many_environments_play(num_envs: int) -> None:
    expected = scripted(3).generate_actions(SEEDS, 3)
    groups = scripted(num_envs).generate_actions(SEEDS, 3)
    assert [len(group) for group in groups] == [3] * len(SEEDS)
    for left, right in zip(groups, expected, strict=True):
        assert all(same(one, other) for one, other in zip(left, right, strict=True))


def test_episodes_of_a_group_start_alike_and_differ_by_what_was_done() -> None:
    policy = GymPolicy(EpisodeSampler(lambda: gymnasium.make("CartPole-v1"), num_envs=5))
    groups = policy.generate_actions([7, 8], 4)
    for group in groups:
        assert all(torch.equal(episode.observations[0], group[0].observations[0]) for episode in group)
        assert len({tuple(episode.decisions.tolist()) for episode in group}) == 4
    assert not torch.equal(groups[0][0].observations[0], groups[1][0].observations[0])


@pytest.mark.parametrize("states", [SEEDS, torch.tensor(SEEDS), np.array(SEEDS), tuple(SEEDS)])
def test_seeds_of_any_kind(states: Any) -> None:
    groups = scripted(2).generate_actions(states, 1)
    assert [int(group[0].observations[0, 0]) for group in groups] == SEEDS


def test_episode_statistics() -> None:
    sampler = EpisodeSampler(ScriptedEnv, 4)
    policy = GymPolicy(sampler, ParityActor())
    assert sampler.get_metrics() == {"num_episodes": 0.0}
    groups = policy.generate_actions(SEEDS, 2)
    returns = [episode.rewards.sum().item() for group in groups for episode in group]
    lengths = [len(episode) for group in groups for episode in group]
    assert sampler.get_metrics() == {
        "num_episodes": 12.0,
        "episode_return": pytest.approx(np.mean(returns)),
        "episode_length": pytest.approx(np.mean(lengths)),
    }
    trainer = GRPOTrainer(GRPOConfig(group_size=2, learning_rate=0.0), policy, EnvironmentReward())
    metrics = trainer.step(SEEDS)
    assert metrics["num_episodes"] == 24
    assert metrics["num_samples"] == 12
    assert metrics["num_decisions"] == sum(lengths)
    assert metrics["reward"] == pytest.approx(np.mean(returns))


def test_advantages_with_a_critic_bootstrap_where_an_episode_was_cut_short() -> None:
    policy = GymActorCritic(EpisodeSampler(ScriptedEnv, 2), ParityActor(), ExactCritic())
    trainer = PPOTrainer(PPOConfig(), policy, EnvironmentReward())
    experience = trainer.collector.collect([1, 3])
    advantages = GeneralizedAdvantage(discount=0.5, gae_lambda=0.5)(experience)
    # Seed 1: one step, reward 0.5 and action 1, truncated. Seed 3: one step, reward -3 and action 1, terminated.
    assert advantages.tolist() == [0.75 + 0.5 * 0.625 - 0.5, -2.75 - 1.5]


@pytest.mark.parametrize("num_envs", [1, 4])
def test_masks_are_stored_and_honoured(num_envs: int) -> None:
    policy = GymPolicy(EpisodeSampler(lambda: MatchingEnv(masked=True, start=2), num_envs))
    for group in policy.generate_actions(range(20), 3):
        for episode in group:
            cues = episode.observations.argmax(-1)
            expected = torch.ones(3, 3, dtype=torch.bool)
            expected[torch.arange(3), (cues + 1) % 3] = False
            assert episode.masks is not None
            assert torch.equal(episode.masks, expected)
            assert set(((episode.decisions - cues) % 3).tolist()) <= {0, 2}


class MaskedForOddSeeds(ScriptedEnv):
    """Forbids action 0 at every odd step where the seed is odd, and tells nothing otherwise."""

    def step(self, action: Any) -> Any:
        is_masked = self.seed % 2 and self.steps % 2
        assert not is_masked or action == 1
        outcome = super().step(action)
        if self.seed % 2 and self.steps % 2:
            outcome[-1]["action_mask"] = np.array([0, 1])
        return outcome


@pytest.mark.parametrize("num_envs", [1, 3])
def test_where_no_mask_is_told_everything_is_allowed(num_envs: int) -> None:
    policy = GymPolicy(EpisodeSampler(MaskedForOddSeeds, num_envs))
    trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, EnvironmentReward())
    experience = trainer.collector.collect([0, 1, 2, 3, 4, 5])
    masks = experience.batch.masks  # type: ignore[attr-defined]
    observations = experience.batch.observations  # type: ignore[attr-defined]
    masked = (observations[:, 0].remainder(2) == 1) & (observations[:, 2].remainder(2) == 1)
    assert torch.equal(masks, torch.stack((~masked, torch.ones_like(masked)), -1))
    decisions = torch.cat([episode.decisions for episode in experience.actions])
    assert set(decisions[~masked].tolist()) == {0, 1}
    trainer.update(experience)


def test_a_copy_of_the_sampler_is_the_sampler() -> None:
    sampler = EpisodeSampler(ScriptedEnv, 2)
    assert copy.deepcopy(sampler) is sampler


def test_the_same_seed_plays_the_same_and_another_does_not() -> None:
    def play(seed: int) -> list[list[int]]:
        policy = GymPolicy(EpisodeSampler(MatchingEnv, 3), seed=seed)
        return [episode.decisions.tolist() for group in policy.generate_actions([0, 1, 2], 4) for episode in group]

    assert play(1) == play(1)
    assert play(1) != play(2)


def test_an_environment_that_does_not_follow_its_seed_is_told() -> None:
    starts = itertools.count()

    class Wilful(ScriptedEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=next(starts), options=options)

    policy = GymPolicy(EpisodeSampler(Wilful, 2))
    with pytest.warns(UserWarning, match="two episodes of one seed began with other observations"):
        policy.generate_actions([0], 2)


def test_episodes_longer_than_the_noise_that_is_drawn_at_once() -> None:
    class Long(ScriptedEnv):
        def step(self, action: Any) -> Any:
            self.steps += 1
            return self._observation(), 1.0, False, self.steps == 700, {}

    (episode,) = GymPolicy(EpisodeSampler(Long, 1)).generate_actions([0], 1)[0]
    assert len(episode) == 700
    halves = episode.decisions[:256], episode.decisions[256:512]
    assert not torch.equal(*halves)
    assert episode.decisions.float().mean().item() == pytest.approx(0.5, abs=0.1)
