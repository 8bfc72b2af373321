"""What adapters do as one of several processes: other random numbers on each, statistics of all."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from processes import answers_of_ranks, on_ranks

from grpo import Experience, GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, Segments, World
from grpo.data.action_batches import NoActions
from grpo_adapters.bandit import GaussianRewards, SoftmaxPolicy, StationaryBandit, seeded_generator
from grpo_adapters.gym import (
    EnvironmentReward,
    FragmentSampler,
    GymActorCritic,
    NormalizedReward,
    RegressedAdvantage,
    Trajectory,
    TrajectoryBatch,
)


def fragments(world: World, plays_before: bool) -> dict[str, Any]:
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=16, seed=3)
    policy = GymActorCritic(sampler, normalize_observations=True, seed=3)
    if plays_before:
        sampler.sample(policy, sampler.states, 1)
    trainer = PPOTrainer(PPOConfig(batch_size=16), policy, EnvironmentReward(), world=world)
    seen, metrics = [], {}
    for _ in range(2):
        metrics = trainer.step(sampler.states)
        assert trainer.last_experience is not None
        batch: Any = trainer.last_experience.batch
        seen.append(batch.observations)
    assert policy.normalization is not None
    return {
        "seen": torch.cat(seen),
        "episodes": sampler.get_metrics()["num_episodes"],
        "metrics": metrics,
        "mean": policy.normalization.mean.clone(),
        "variance": policy.normalization.variance.clone(),
    }


@pytest.mark.parametrize("plays_before", [False, True])
def test_each_process_plays_other_episodes_and_all_normalise_by_all(plays_before: bool) -> None:
    alone = fragments(World(), plays_before)
    told = on_ranks(2, fragments, plays_before)
    first, second = (own["seen"] for own in told)
    size = len(alone["seen"]) // 2
    assert torch.equal(first[:size], alone["seen"][:size])
    assert not set(map(tuple, first.tolist())) & set(map(tuple, second.tolist()))
    seen = torch.cat((first, second)).double()
    for own in told:
        torch.testing.assert_close(own["mean"], seen.mean(0))
        torch.testing.assert_close(own["variance"], seen.var(0, correction=0))
        assert own["metrics"]["num_episodes"] == sum(each["episodes"] for each in told)
        assert own["metrics"] == told[0]["metrics"]


def one_is_without(world: World) -> tuple[torch.Tensor, float]:
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=8, seed=3)
    policy = GymActorCritic(sampler, normalize_observations=True, seed=3)
    policy.join_world(world)
    nothing: Any = object()
    observations = sampler.sample(policy, sampler.states, 1)[0]
    batch = policy.encode_actions(sampler.states, observations) if world.rank == 0 else nothing
    policy.update_statistics(batch)
    assert policy.normalization is not None
    return policy.normalization.mean.clone(), policy.normalization.count.item()


def test_a_process_without_samples_follows_the_others() -> None:
    (first, count), (second, other) = on_ranks(2, one_is_without)
    assert torch.equal(first, second)
    assert count == other == 8


def normalised(world: World, rollouts: list[list[float]]) -> list[float]:
    model = NormalizedReward(discount=0.5)
    model.join_world(world)
    own = rollouts if world.is_alone else rollouts[world.rank : world.rank + 1]
    return model.compute_rewards(list(range(len(own))), [played(rewards) for rewards in own]).tolist()


def played(rewards: list[float]) -> Trajectory:
    steps = len(rewards)
    observations = torch.tensor(rewards).cumsum(0)[:, None]
    end, over = torch.zeros(1, 1), torch.tensor([False])
    return Trajectory(observations, torch.zeros(steps, dtype=torch.long), torch.tensor(rewards), (steps,), end, over)


def test_rewards_are_divided_by_the_spread_of_all_returns() -> None:
    rollouts = [[1.0, 2.0, 4.0], [8.0, -3.0]]
    alone = normalised(World(), rollouts)
    first, second = on_ranks(2, normalised, rollouts)
    assert first + second == pytest.approx(alone)


def worth(world: World, rollouts: list[list[float]]) -> list[float]:
    own = rollouts if world.is_alone else [rollout for rollout in rollouts[world.rank : world.rank + 1] if rollout]
    trajectories = [played(rewards) for rewards in own]
    rewards = torch.tensor([reward for rollout in own for reward in rollout])
    credit = RegressedAdvantage(discount=0.9, gae_lambda=0.5)
    batch: Any = (
        TrajectoryBatch.of(trajectories, torch.device("cpu"), torch.float32)
        if own
        else NoActions(torch.device("cpu"), [])
    )
    count = len(trajectories)
    experience = Experience([0] * count, trajectories, batch, Segments(count, 1), rewards, world=world)
    return credit(experience).tolist()


@pytest.mark.parametrize("rollouts", [[[1.0, 2.0, 4.0], [8.0, -3.0]], [[1.0, 2.0, 4.0], []]])
def test_states_are_worth_what_all_processes_returned_from_them(rollouts: list[list[float]]) -> None:
    alone = worth(World(), [rollout for rollout in rollouts if rollout])
    first, second = on_ranks(2, worth, rollouts)
    assert first + second == pytest.approx(alone, abs=1e-5)


def rewards_of_a_bandit(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    bandit = StationaryBandit(torch.zeros(3), GaussianRewards(1.0), seed=1)
    policy = SoftmaxPolicy(3, seeded_generator("test", 2))
    trainer = GRPOTrainer(GRPOConfig(group_size=8), policy, bandit, world=world)
    trainer.step(torch.zeros(1, 1))
    experience = trainer.last_experience
    assert experience is not None
    return experience.sample_rewards.values, torch.as_tensor(experience.actions)


def test_noise_of_bandits_differs() -> None:
    [alone] = on_ranks(1, rewards_of_a_bandit)
    first, second = on_ranks(2, rewards_of_a_bandit)
    assert all(map(torch.equal, first, alone))
    assert not set(first[0].tolist()) & set(second[0].tolist())
    assert not torch.equal(first[1], second[1])


def pools(world: World, seeds: tuple[int, int]) -> None:
    sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=8)
    sampler.environments.is_envpool, sampler.environments.seed = True, seeds[world.rank]
    sampler.join_world(world)


def test_environments_that_are_seeded_when_they_are_made() -> None:
    on_ranks(2, pools, (1, 2))
    for _, error, _ in answers_of_ranks(2, pools, (1, 1)):
        assert isinstance(error, ValueError)
        assert "world.own_seed(seed)" in str(error)
