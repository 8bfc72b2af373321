"""Environments that cannot be in a state: episodes are cut, and what is loaded goes on as what went on."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import torch
from gym_environments import EPISODES, MatchingEnv, ScriptedEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from state_laws import are_same

from grpo import CutsEpisodes, PPOConfig, PPOTrainer, Trainer
from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, FragmentSampler, GymActorCritic, GymPolicy

pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")

ENVIRONMENTS: dict[str, Callable[[], Any]] = {
    "box2d": lambda: gymnasium.make_vec("LunarLander-v3", 2, vectorization_mode="sync"),
    "async": lambda: AsyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2),
    **{
        mode.name: lambda mode=mode: SyncVectorEnv(  # type: ignore[misc]
            [lambda: MatchingEnv(masked=True)] * 3, autoreset_mode=mode
        )
        for mode in AutoresetMode
    },
}


def trainer_of(envs: Any, seed: int = 4) -> Trainer[Any, Any]:
    sampler = FragmentSampler(envs, 20, seed=seed, environments_in_state="restart")
    policy = GymActorCritic(sampler, hidden_sizes=(8,), normalize_observations=True)
    return PPOTrainer(PPOConfig(batch_size=16, num_epochs_per_update=2), policy, EnvironmentReward())


def steps(trainer: Trainer[Any, Any], last: int) -> tuple[list[Any], dict[int, Any]]:
    """Steps up to ``last``, cut every two: metrics and parameters of each, and the states at the cuts."""
    seen, states = [], {}
    sampler: Any = trainer.sampler
    while trainer.num_steps < last:
        metrics = trainer.step(sampler.states)
        seen.append((metrics, [value.clone() for value in trainer.policy.state_dict().values()]))  # type: ignore[attr-defined]
        if trainer.num_steps % 2 == 0:
            sampler.cut(trainer.num_steps)
            states[trainer.num_steps] = saved_and_loaded(trainer.state_dict())
    return seen, states


def saved_and_loaded(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.filterwarnings("ignore:no episode of 2 environments has ended")  # none of LunarLander does so soon
@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_a_run_that_was_interrupted_goes_on_as_one_that_was_not(kind: str) -> None:
    first, second = ENVIRONMENTS[kind](), ENVIRONMENTS[kind]()
    try:
        expected, states = steps(trainer_of(first), 6)
        trainer = trainer_of(second)
        trainer.load_state_dict(states[4])
        seen, later_states = steps(trainer, 6)
        assert are_same(seen, expected[4:])
        assert are_same(later_states[6], states[6])
    finally:
        first.close()
        second.close()


def sampler_of(seed: int = 3, in_state: Any = "restart") -> FragmentSampler:
    return FragmentSampler(SyncVectorEnv([ScriptedEnv] * 2), 7, seed=seed, environments_in_state=in_state)


def begun_with(sampler: FragmentSampler, policy: GymPolicy) -> int:
    """Play on; the seed that the first environment was last reset to."""
    sampler.sample(policy, sampler.states, 1)
    seeds = [environment.seed for environment in sampler.envs.envs]
    assert seeds == [sampler.environments.seed, sampler.environments.seed + 1]
    first: int = seeds[0]
    return first


def test_new_episodes_follow_from_the_seed_and_the_step_alone() -> None:
    seeds: dict[tuple[int, int], int] = {}
    for seed in (3, 4):
        for num_rollouts in (1, 3):
            sampler = sampler_of(seed)
            policy = GymPolicy(sampler, seed=num_rollouts)
            assert [begun_with(sampler, policy) for _ in range(num_rollouts)] == [seed] * num_rollouts
            for step in (8, 9):
                sampler.cut(step)
                begun = begun_with(sampler, policy)
                assert seeds.setdefault((seed, step), begun) == begun
    assert len(set(seeds.values())) == 4


def test_episodes_that_are_cut_do_not_count() -> None:
    sampler = sampler_of()
    policy = GymPolicy(sampler)
    begun_with(sampler, policy)
    statistics = sampler.statistics.state_dict()
    assert statistics["lengths"] == [1, 2, 2, 4]  # of the seeds 3 and 4; one of 4 steps is under way
    sampler.cut(1)
    assert sampler.statistics.state_dict() == statistics
    seed = begun_with(sampler, policy)
    assert sampler.statistics.state_dict()["lengths"][4] == len(EPISODES[seed % len(EPISODES)][0])


def cuts(num_steps: int, count: int, length: int = 6) -> list[str]:
    """What is warned of in rollouts of so many steps, with a cut behind each, where episodes have ``length`` steps."""
    envs = gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync", max_episode_steps=length)
    sampler = FragmentSampler(envs, num_steps, environments_in_state="restart")
    policy = GymPolicy(sampler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(count):
            sampler.cut(step)
            sampler.sample(policy, sampler.states, 1)
        sampler.cut(count)
    return [str(warning.message) for warning in caught]


def test_episodes_that_cuts_never_let_end_are_told_once() -> None:
    [told] = cuts(num_steps=5, count=4)
    assert "no episode of 2 environments has ended between the last checkpoints, which are 5 steps apart" in told
    assert "--checkpoint-every" in told
    assert cuts(num_steps=5, count=1) == cuts(num_steps=7, count=4) == []


def test_a_state_without_a_cut_begins_new_episodes_all_the_same() -> None:
    sampler = sampler_of()
    policy = GymPolicy(sampler)
    untouched = sampler.state_dict()
    begun_with(sampler, policy)
    state = sampler.state_dict()
    begun = []
    for other in (sampler_of(), sampler):
        other.load_state_dict(state)
        assert other.get_metrics() == sampler.get_metrics()
        begun.append(begun_with(other, policy))
    assert begun[0] == begun[1] != 3
    sampler.load_state_dict(untouched)
    assert begun_with(sampler, policy) == 3
    assert sampler.get_metrics()["num_episodes"] > 0


def test_a_copy_needs_no_cut() -> None:
    samplers = [sampler_of(in_state="copy") for _ in range(2)]
    policies = [GymPolicy(sampler) for sampler in samplers]
    for step in range(3):
        one, other = (
            [f.rewards.tolist() for (f,) in s.sample(p, s.states, 1)] for s, p in zip(samplers, policies, strict=True)
        )
        assert one == other
        samplers[0].cut(step)
    assert isinstance(samplers[0], CutsEpisodes)
    assert not isinstance(EpisodeSampler(ScriptedEnv), CutsEpisodes)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="environments_in_state is 'pickle', expected 'copy' or 'restart'"):
        sampler_of(in_state="pickle")
    with pytest.raises(ValueError, match=r"was given .*'environments'.*, expected .*'next_seed'"):
        sampler_of().load_state_dict(sampler_of(in_state="copy").state_dict())
    with pytest.raises(ValueError, match="of 2 environments in a SyncVectorEnv, expected 2 in a CartPoleVectorEnv"):
        FragmentSampler(gymnasium.make_vec("CartPole-v1", 2), 4, environments_in_state="restart").load_state_dict(
            sampler_of().state_dict()
        )
