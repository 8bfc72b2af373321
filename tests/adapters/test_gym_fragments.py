"""Fragments of vector environments: the same steps and advantages whatever happens at the end of an episode."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import (
    EPISODES,
    ExactCritic,
    MatchingEnv,
    ParityActor,
    ScriptedEnv,
    SpacesEnv,
    advantages_by_hand,
    scripted_steps,
    scripted_steps_between,
)
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from grpo import Experience, GeneralizedAdvantage, PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, GymPolicy

SEED = 5
NUM_ENVS = 3
DISCOUNT, GAE_LAMBDA = 0.5, 0.5
ESTIMATOR = GeneralizedAdvantage(discount=DISCOUNT, gae_lambda=GAE_LAMBDA)


def vector(mode: AutoresetMode, num_envs: int = NUM_ENVS, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([ScriptedEnv] * num_envs, autoreset_mode=mode, **options)


def scripted_trainer(sampler: FragmentSampler) -> PPOTrainer[Any, Any]:
    policy = GymActorCritic(sampler, ParityActor(), ExactCritic())
    return PPOTrainer(PPOConfig(), policy, EnvironmentReward())


def collect(envs: Any, num_steps: int, num_rollouts: int) -> list[tuple[Experience, list[torch.Tensor]]]:
    """Rollouts under an exact actor and critic, with the advantages of each fragment."""
    sampler = FragmentSampler(envs, num_steps, seed=SEED)
    trainer = scripted_trainer(sampler)
    rollouts = []
    for _ in range(num_rollouts):
        experience = trainer.collector.collect(sampler.states)
        advantages = ESTIMATOR(experience).split(experience.samples.lengths.tolist())
        rollouts.append((experience, list(advantages)))
    return rollouts


def check_against_script(rollouts: list[tuple[Experience, list[torch.Tensor]]]) -> None:
    """Every step of the script is there once, in order, with what came of it; and so are the advantages."""
    played = [0] * len(rollouts[0][1])
    for experience, advantages in rollouts:
        for slot, (fragment, own) in enumerate(zip(experience.actions, advantages, strict=True)):
            first, played[slot] = played[slot], played[slot] + len(fragment)
            steps = scripted_steps_between(SEED + slot, first, played[slot])
            assert fragment.observations.tolist() == [list(step.observation) for step in steps]
            assert fragment.decisions.tolist() == [step.action for step in steps]
            assert fragment.rewards.tolist() == [step.reward for step in steps]
            ends = [index for index, step in enumerate(steps) if step.done or index == len(steps) - 1]
            assert [sum(fragment.episode_lengths[: k + 1]) - 1 for k in range(len(ends))] == ends
            assert fragment.next_observations.tolist() == [list(steps[end].next_observation) for end in ends]
            assert fragment.terminated.tolist() == [steps[end].terminated for end in ends]
            assert own.tolist() == advantages_by_hand(steps, DISCOUNT, GAE_LAMBDA)


@pytest.mark.parametrize("num_steps", [2, 3, 4, 5, 7, 30])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_every_step_is_there_once_with_its_true_successor_and_advantage(mode: AutoresetMode, num_steps: int) -> None:
    rollouts = collect(vector(mode), num_steps, 60 // num_steps)
    check_against_script(rollouts)
    last_steps = [bool(fragment.terminated[-1]) for experience, _ in rollouts for fragment in experience.actions]
    assert num_steps == 30 or (True in last_steps and False in last_steps)  # rollouts end where episodes do, too
    if mode is not AutoresetMode.NEXT_STEP:
        assert all(len(fragment) == num_steps for experience, _ in rollouts for fragment in experience.actions)


def test_complete_episodes_have_the_same_advantages_in_all_modes() -> None:
    advantages: dict[AutoresetMode, dict[tuple[int, int], torch.Tensor]] = {}
    for mode in AutoresetMode:
        advantages[mode] = {}
        for experience, parts in collect(vector(mode), 11, 8):
            for slot, (fragment, own) in enumerate(zip(experience.actions, parts, strict=True)):
                first = 0
                for length, successor in zip(fragment.episode_lengths, fragment.next_observations, strict=True):
                    seed, episode, step = fragment.observations[first].int().tolist()
                    assert seed == SEED + slot
                    last, first = first + length, first + length
                    if step == 0 and length == len(EPISODES[(seed + episode) % len(EPISODES)][0]):
                        assert successor.tolist() == [seed, episode, length]
                        advantages[mode][seed, episode] = own[last - length : last]
    same = set.intersection(*(set(found) for found in advantages.values()))
    assert len(same) > 30
    for key in same:
        reference = advantages[AutoresetMode.SAME_STEP][key]
        assert torch.equal(advantages[AutoresetMode.NEXT_STEP][key], reference)
        assert torch.equal(advantages[AutoresetMode.DISABLED][key], reference)


def test_modes_without_a_step_to_reset_agree_in_everything() -> None:
    first, second = (collect(vector(mode), 4, 12) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED))
    for (_, left), (_, right) in zip(first, second, strict=True):
        assert torch.equal(torch.cat(left), torch.cat(right))


@pytest.mark.parametrize("mode", AutoresetMode)
def test_environments_that_overwrite_their_observations(mode: AutoresetMode) -> None:
    check_against_script(collect(vector(mode, copy=False), 4, 10))


def test_environments_in_processes_of_their_own() -> None:
    envs = AsyncVectorEnv([ScriptedEnv] * 2, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        check_against_script(collect(envs, 7, 4))
    finally:
        envs.close()


def test_a_wrapped_vector_environment() -> None:
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector(AutoresetMode.NEXT_STEP))
    check_against_script(collect(envs, 5, 8))


def test_termination_and_truncation_worked_out_by_hand() -> None:
    experience, advantages = collect(vector(AutoresetMode.SAME_STEP, num_envs=1), 7, 1)[0]
    assert experience.values is not None
    # Seed 5: rewards 2, 2.25, 2, 8.25, truncated; then 1, 2.25, -1, terminated. Values are 2.5 + episode/4 + step/8.
    assert experience.decision_rewards.tolist() == [2.25, 2.0, 2.25, 8.0, 1.0, 2.25, -1.0]
    assert experience.values.values.tolist() == [2.5, 2.625, 2.75, 2.875, 2.75, 2.875, 3.0]
    assert experience.values.next_values.tolist() == [2.625, 2.75, 2.875, 3.0, 2.875, 3.0, 0.0]
    assert advantages[0][3:].tolist()[0] == 8.0 + 0.5 * 3.0 - 2.875
    assert advantages[0][-1].item() == -1.0 - 3.0
    assert experience.episodes.lengths.tolist() == [4, 3]


@pytest.mark.parametrize("mode", AutoresetMode)
def test_episode_statistics(mode: AutoresetMode) -> None:
    sampler = FragmentSampler(vector(mode), 9, seed=SEED)
    trainer = scripted_trainer(sampler)
    assert sampler.get_metrics() == {"num_episodes": 0.0}
    played = np.zeros(NUM_ENVS, dtype=int)
    for _ in range(4):
        experience = trainer.collector.collect(sampler.states)
        played += [len(fragment) for fragment in experience.actions]
        returns, lengths = [], []
        for slot in range(NUM_ENVS):
            total, length = 0.0, 0
            for step in scripted_steps_between(SEED + slot, 0, int(played[slot])):
                total, length = total + step.reward, length + 1
                if step.done:
                    returns.append(total)
                    lengths.append(length)
                    total, length = 0.0, 0
        metrics = sampler.get_metrics()
        assert metrics["num_episodes"] == len(returns)
        assert metrics["episode_return"] == pytest.approx(np.mean(returns))
        assert metrics["episode_length"] == pytest.approx(np.mean(lengths))


def test_statistics_are_those_of_the_last_hundred_episodes() -> None:
    sampler = FragmentSampler(vector(AutoresetMode.SAME_STEP, num_envs=1), 500, seed=SEED)
    scripted_trainer(sampler).collector.collect(sampler.states)
    returns, total = [], 0.0
    for step in scripted_steps_between(SEED, 0, 500):
        total += step.reward
        if step.done:
            returns.append(total)
            total = 0.0
    assert len(returns) > 150
    metrics = sampler.get_metrics()
    assert metrics["num_episodes"] == len(returns)
    assert metrics["episode_return"] == pytest.approx(np.mean(returns[-100:]))
    assert abs(np.mean(returns) - np.mean(returns[-100:])) > 1e-3


def test_steps_that_reset_count_nowhere() -> None:
    sampler = FragmentSampler(vector(AutoresetMode.NEXT_STEP), 12, seed=SEED)
    trainer = scripted_trainer(sampler)
    metrics = trainer.step(sampler.states)
    real = 0
    for slot in range(NUM_ENVS):
        steps = scripted_steps(SEED + slot)
        left = 12
        while left > 0:
            real += 1
            left -= 2 if next(steps).done else 1
    assert metrics["num_decisions"] == real < 12 * NUM_ENVS
    assert metrics["num_samples"] == NUM_ENVS
    assert metrics["num_episodes"] == sampler.get_metrics()["num_episodes"]


def test_gymnasiums_own_vector_environment() -> None:
    """CartPole gives 1 a step, so that statistics can be counted from its outputs alone."""

    class Counting(gymnasium.vector.VectorWrapper):
        def __init__(self, envs: Any) -> None:
            super().__init__(envs)
            self.lengths: list[int] = []
            self.current, self.over = np.zeros(envs.num_envs, dtype=int), np.zeros(envs.num_envs, dtype=bool)

        def step(self, actions: Any) -> Any:
            outcome = self.env.step(actions)
            self.current[~self.over] += 1
            self.over = outcome[2] | outcome[3]
            self.lengths += self.current[self.over].tolist()
            self.current[self.over] = 0
            return outcome

    envs = Counting(gymnasium.make_vec("CartPole-v1", num_envs=4))
    sampler = FragmentSampler(envs, 100, seed=1)
    policy = GymPolicy(sampler)
    fragments = [fragment for _ in range(2) for (fragment,) in policy.generate_actions(sampler.states, 1)]
    assert len(envs.lengths) > 10
    metrics = sampler.get_metrics()
    assert metrics["num_episodes"] == len(envs.lengths)
    assert metrics["episode_return"] == metrics["episode_length"] == pytest.approx(np.mean(envs.lengths))
    assert sum(len(fragment) for fragment in fragments) == sum(envs.lengths) + envs.current.sum()
    assert all(torch.equal(fragment.rewards, torch.ones(len(fragment))) for fragment in fragments)
    for fragment in fragments:
        ended = fragment.next_observations[fragment.terminated]
        assert ((ended[:, 0].abs() > 2.4) | (ended[:, 2].abs() > 0.2095)).all()
        assert (fragment.observations[:, 2].abs() < 0.2095).all()


def test_environments_of_the_same_seed_play_the_same_and_of_another_do_not() -> None:
    def play(seed: int) -> list[torch.Tensor]:
        sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), 40, seed=seed)
        groups = GymPolicy(sampler).generate_actions(sampler.states, 1)
        return [fragment.observations for (fragment,) in groups]

    assert all(torch.equal(left, right) for left, right in zip(play(3), play(3), strict=True))
    assert not torch.equal(play(3)[0][:1], play(4)[0][:1])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_masks_are_stored_and_honoured(mode: AutoresetMode) -> None:
    envs = SyncVectorEnv([lambda: MatchingEnv(masked=True)] * 3, autoreset_mode=mode)
    sampler = FragmentSampler(envs, 20, seed=2)
    policy = GymPolicy(sampler)
    for (fragment,) in policy.generate_actions(sampler.states, 1):
        cues = fragment.observations.argmax(-1)
        expected = torch.ones(len(fragment), 3, dtype=torch.bool)
        expected[torch.arange(len(fragment)), (cues + 1) % 3] = False
        assert fragment.masks is not None
        assert torch.equal(fragment.masks, expected)
        assert set(((fragment.decisions - cues) % 3).tolist()) == {0, 2}


class SometimesMasked(ScriptedEnv):
    """Forbids action 0 at every step that has an odd number, and tells nothing otherwise."""

    def step(self, action: Any) -> Any:
        assert self.steps % 2 == 0 or action == 1
        outcome = super().step(action)
        if self.steps % 2:
            outcome[-1]["action_mask"] = np.array([0, 1], dtype=np.int8)
        return outcome


@pytest.mark.parametrize("mode", AutoresetMode)
def test_where_no_mask_is_told_everything_is_allowed(mode: AutoresetMode) -> None:
    sampler = FragmentSampler(SyncVectorEnv([SometimesMasked] * 3, autoreset_mode=mode), 25, seed=SEED)
    policy = GymPolicy(sampler)
    for _ in range(2):
        for (fragment,) in policy.generate_actions(sampler.states, 1):
            assert fragment.masks is not None
            odd = fragment.observations[:, 2].remainder(2) == 1
            assert torch.equal(fragment.masks, torch.stack((~odd, torch.ones_like(odd)), -1))
            assert set(fragment.decisions[~odd].tolist()) == {0, 1}


def test_a_dictionary_of_observations() -> None:
    space = spaces.Dict({"near": spaces.Box(-1, 1, (2,)), "kind": spaces.Discrete(3, start=1)})
    for mode in AutoresetMode:
        envs = SyncVectorEnv([lambda: SpacesEnv(space, spaces.Box(-1, 1, (2,)))] * 2, autoreset_mode=mode)
        sampler = FragmentSampler(envs, 10, seed=0)
        for (fragment,) in GymPolicy(sampler).generate_actions(sampler.states, 1):
            assert fragment.observations.shape == (len(fragment), 5)
            assert torch.equal(fragment.observations[:, :3].sum(-1), torch.ones(len(fragment)))
            assert fragment.next_observations[:, :3].sum(-1).tolist() == [1.0] * len(fragment.episode_lengths)
            assert not fragment.terminated.any()


def environment_pool(*, is_vector: bool, num_envs: int = NUM_ENVS, batch_size: int | None = None) -> Any:
    """What EnvPool 1.2 makes of scripted environments: a class made in ``abc``, with bases of its own.

    Its seed is given when it is made, and asking reset for another warns; actions are cast to its own type; rewards
    are float32; a finished environment is reset by its next step. ``is_vector`` is False for its older versions.
    """

    class PoolMixin:
        def __init__(self) -> None:
            self.environments = SyncVectorEnv([ScriptedEnv] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
            self.action_types: list[Any] = []
            self.elapsed = np.zeros(num_envs, dtype=np.int32)

        @property
        def config(self) -> dict[str, Any]:
            return {"num_envs": num_envs, "batch_size": batch_size or num_envs, "num_threads": 1, "seed": SEED}

        @property
        def observation_space(self) -> Any:
            return self.environments.single_observation_space

        @property
        def action_space(self) -> Any:
            return self.environments.single_action_space

        def reset(self, env_id: Any = None, *, seed: Any = None, options: Any = None) -> Any:
            if seed is not None:
                warnings.warn("EnvPool seeds are fixed when the environment is created", stacklevel=2)
            self.elapsed[:] = 0
            observations, _ = self.environments.reset(seed=SEED)
            return observations, self._info()

        def step(self, action: Any, env_id: Any = None) -> Any:
            assert isinstance(action, np.ndarray)
            self.action_types.append(action.dtype)
            self.elapsed = np.where(self.environments._autoreset_envs, 0, self.elapsed + 1).astype(np.int32)
            outcome = self.environments.step(action.astype(np.int32, order="C"))
            observations, rewards, terminated, truncated, _ = outcome
            return observations, rewards.astype(np.float32), terminated, truncated, self._info()

        def _info(self) -> dict[str, Any]:
            ids = np.arange(num_envs, dtype=np.int32)
            return {"env_id": ids, "players": {"env_id": ids}, "elapsed_step": self.elapsed}

    PoolMixin.__module__ = "envpool.python.gymnasium_envpool"
    members: dict[str, Any] = {"__module__": "abc"}
    bases: tuple[type, ...] = (PoolMixin, gymnasium.Env)
    if is_vector:
        bases = (PoolMixin, gymnasium.vector.VectorEnv, gymnasium.Env)
        members |= {
            "num_envs": property(lambda pool: num_envs),
            "single_observation_space": property(lambda pool: pool.observation_space),
            "single_action_space": property(lambda pool: pool.action_space),
            "metadata": {"autoreset_mode": AutoresetMode.NEXT_STEP},
        }
    return type("ScriptedGymnasiumEnvPool", bases, members)()


@pytest.mark.parametrize("is_vector", [True, False])
def test_environment_pools(is_vector: bool) -> None:
    pool = environment_pool(is_vector=is_vector)
    check_against_script(collect(pool, 5, 10))
    assert {np.dtype(kind) for kind in pool.action_types} == {pool.action_space.dtype}
    sampler = FragmentSampler(environment_pool(is_vector=is_vector), 8, seed=1)
    assert sampler.single_action_space == spaces.Discrete(2)
    policy = GymActorCritic(sampler)
    metrics = PPOTrainer(PPOConfig(batch_size=8), policy, EnvironmentReward()).step(sampler.states)
    assert metrics["num_decisions"] < 8 * NUM_ENVS
    assert metrics["num_episodes"] > 0


@pytest.mark.parametrize("is_vector", [True, False])
def test_environment_pools_cannot_be_copied(is_vector: bool) -> None:
    sampler = FragmentSampler(environment_pool(is_vector=is_vector), 8)
    with pytest.raises(
        TypeError, match=r"ScriptedGymnasiumEnvPool holds its environments in C\+\+.* Pass Fragment.*restart"
    ):
        sampler.state_dict()


def test_environment_pools_that_step_a_few_at_a_time() -> None:
    with pytest.raises(ValueError, match=r"steps 2 of its 3 environments at a time.*leave batch_size out"):
        FragmentSampler(environment_pool(is_vector=True, batch_size=2), 8)


@pytest.mark.parametrize("failing", ["observation", "reward"])
def test_an_environment_pool_is_named_by_its_own_seed(failing: str) -> None:
    pool = environment_pool(is_vector=True)
    setattr(pool.environments.envs[1], f"bad_{failing}", (SEED + 1, 0, 1))
    sampler = FragmentSampler(pool, 6)
    with pytest.raises(ValueError, match=rf"environment 1 \(seed {SEED + 1}\) gave the {failing} .* at step 1 "):
        scripted_trainer(sampler).step(sampler.states)
