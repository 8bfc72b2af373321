"""Samplers as trainers see them: given to them or found in the policy, for fitting spaces, and after a failed step."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import EPISODES, MatchingEnv, ParityActor, ScriptedEnv, SpacesEnv
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from grpo import GRPOConfig, GRPOTrainer, NonFiniteError, ReinforceConfig, ReinforceTrainer, Restarts, Sampler
from grpo_adapters.bandit import SoftmaxPolicy
from grpo_adapters.gym import (
    EnvironmentFailedError,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymPolicy,
    Trajectory,
    evaluate,
)

SEED = 5
STATES = [0, 1, 2]
AnySampler = EpisodeSampler | FragmentSampler


def fragments(
    mode: AutoresetMode = AutoresetMode.NEXT_STEP, make: Callable[[], Any] = ScriptedEnv, num_steps: int = 6
) -> FragmentSampler:
    return FragmentSampler(SyncVectorEnv([make] * len(STATES), autoreset_mode=mode), num_steps, seed=SEED)


def episodes(make: Callable[[], Any] = ScriptedEnv) -> EpisodeSampler:
    return EpisodeSampler(make, num_envs=2)


@pytest.mark.parametrize("make_sampler", [episodes, fragments])
def test_they_are_samplers_of_the_core(make_sampler: Callable[[], AnySampler]) -> None:
    assert isinstance(make_sampler(), Sampler)
    assert isinstance(make_sampler(), Restarts)


@pytest.mark.parametrize("make_sampler", [lambda: episodes(MatchingEnv), lambda: fragments(make=MatchingEnv)])
def test_a_sampler_that_is_given_does_what_one_in_the_policy_does(make_sampler: Callable[[], AnySampler]) -> None:
    metrics = []
    for is_given in (True, False):
        sampler = make_sampler()
        policy = GymPolicy(MatchingEnv() if is_given else sampler, seed=1)
        config = ReinforceConfig(learning_rate=0.1)
        trainer = ReinforceTrainer(config, policy, EnvironmentReward(), sampler=sampler if is_given else None)
        metrics.append([trainer.step(STATES) for _ in range(3)])
    assert metrics[0] == metrics[1]
    assert metrics[0][-1]["num_episodes"] > 3


def test_a_sampler_that_is_given_comes_before_the_one_in_the_policy() -> None:
    own, given = episodes(), episodes()
    trainer = GRPOTrainer(GRPOConfig(group_size=2), GymPolicy(own), EnvironmentReward(), sampler=given)
    assert trainer.step(STATES)["num_episodes"] == 6
    assert own.get_metrics() == {"num_episodes": 0.0}


BOX, TWO = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
UNLIKE = [
    (BOX, TWO, spaces.Box(-1, 1, (4,)), TWO),
    (BOX, TWO, BOX, spaces.Discrete(3)),
    (BOX, TWO, BOX, spaces.Discrete(2, start=1)),
    (BOX, spaces.Box(-1, 1, (2,)), BOX, spaces.Box(-2, 2, (2,))),
    (spaces.Discrete(3), TWO, spaces.Discrete(4), TWO),
    (spaces.Discrete(3), TWO, spaces.Box(0, 1, (3,)), TWO),
    (spaces.Dict(a=BOX), TWO, spaces.Dict(a=spaces.Discrete(3)), TWO),
    (spaces.Dict(a=BOX), TWO, spaces.Dict(b=BOX), TWO),
]


@pytest.mark.parametrize("make_sampler", [episodes, fragments])
@pytest.mark.parametrize("unlike", UNLIKE)
def test_a_policy_that_was_built_for_other_spaces(
    unlike: Sequence[gymnasium.Space[Any]], make_sampler: Callable[..., AnySampler]
) -> None:
    policy = GymPolicy(SpacesEnv(*unlike[:2]))
    sampler = make_sampler(make=lambda: SpacesEnv(*unlike[2:]))
    with pytest.raises(ValueError, match=r"policy GymPolicy was built for .*: build the policy from this") as caught:
        sampler.sample(policy, STATES, 1)
    assert f"observations {unlike[0]} and actions {unlike[1]}, but {type(sampler).__name__}" in str(caught.value)
    assert f"environments with observations {unlike[2]} and actions {unlike[3]}:" in str(caught.value)


@pytest.mark.parametrize("make_sampler", [episodes, fragments])
@pytest.mark.parametrize("bounded", [spaces.Box(-2, 2, (3,)), spaces.Box(-1, 1, (3,), np.float64)])
def test_bounds_of_observations_and_their_precision_do_not_matter(
    bounded: spaces.Box, make_sampler: Callable[..., AnySampler]
) -> None:
    for left, right in ((BOX, bounded), (spaces.Dict(a=BOX, b=TWO), spaces.Dict(a=bounded, b=TWO))):
        policy = GymPolicy(SpacesEnv(left, TWO))
        assert len(make_sampler(make=lambda space=right: SpacesEnv(space, TWO)).sample(policy, STATES, 1)) == 3


@pytest.mark.parametrize("sampler", [episodes(), fragments()])
def test_a_policy_of_another_kind(sampler: AnySampler) -> None:
    policy: Any = SoftmaxPolicy(num_arms=2)
    trainer = ReinforceTrainer(ReinforceConfig(), policy, EnvironmentReward(), sampler=sampler)
    with pytest.raises(TypeError, match=r"Sampler was given .* SoftmaxPolicy, which lacks .*expected a GymPolicy"):
        trainer.step(STATES)


class FailsOnce(EnvironmentReward):
    """The environment's rewards, save that something goes wrong the second time."""

    def __init__(self, failure: BaseException | None) -> None:
        super().__init__()
        self.failure = failure
        self.num_calls = 0

    def compute_rewards(self, states: Any, actions: Sequence[Trajectory]) -> torch.Tensor:
        self.num_calls += 1
        rewards = super().compute_rewards(states, actions)
        if self.num_calls != 2:
            return rewards
        if self.failure is not None:
            raise self.failure
        return rewards * torch.nan


FAILURES = [(None, NonFiniteError), (KeyboardInterrupt(), KeyboardInterrupt)]


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize(("failure", "kind"), FAILURES)
def test_after_a_failed_step_fragments_begin_new_episodes(
    mode: AutoresetMode, failure: BaseException | None, kind: type[BaseException]
) -> None:
    """The script numbers its episodes, and its returns are those of whole ones."""
    sampler = fragments(mode)
    policy = GymPolicy(ScriptedEnv(), ParityActor())
    config = ReinforceConfig(learning_rate=1e-6)
    trainer = ReinforceTrainer(config, policy, FailsOnce(failure), sampler=sampler)
    trainer.step(sampler.states)
    before = sampler.get_metrics(), policy.generator.get_state()
    with pytest.raises(kind):
        trainer.step(sampler.states)
    assert sampler.get_metrics() == before[0]
    assert torch.equal(policy.generator.get_state(), before[1])
    experience = trainer.collector.collect(sampler.states)
    returns = []
    for fragment in experience.actions:
        seed, episode, step = (int(number) for number in fragment.observations[0])
        assert step == 0
        assert episode > 1
        rewards = fragment.rewards.split(fragment.episode_lengths)
        lengths = [len(EPISODES[(seed + episode + number) % len(EPISODES)][0]) for number in range(len(rewards))]
        returns += [own.sum().item() for own, length in zip(rewards, lengths, strict=True) if len(own) == length]
    after, earlier = sampler.get_metrics(), before[0]
    assert len(returns) > 2
    assert after["num_episodes"] == earlier["num_episodes"] + len(returns)
    total = earlier["num_episodes"] * earlier["episode_return"] + sum(returns)
    assert after["episode_return"] == pytest.approx(total / after["num_episodes"])


@pytest.mark.parametrize(("failure", "kind"), FAILURES)
def test_after_a_failed_step_its_episodes_do_not_count(
    failure: BaseException | None, kind: type[BaseException]
) -> None:
    sampler = episodes()
    config = GRPOConfig(group_size=2, learning_rate=1e-6)
    trainer = GRPOTrainer(config, GymPolicy(ScriptedEnv()), FailsOnce(failure), sampler=sampler)
    before = trainer.step(STATES)
    with pytest.raises(kind):
        trainer.step([4, 5, 6])
    assert sampler.get_metrics().items() <= before.items()
    assert trainer.step(STATES)["num_episodes"] == 12


def test_a_step_that_fails_before_it_has_played_leaves_the_statistics() -> None:
    sampler = fragments()
    trainer = ReinforceTrainer(ReinforceConfig(), GymPolicy(sampler), EnvironmentReward())
    before = trainer.step(sampler.states)
    with pytest.raises(ValueError, match="states are"):
        trainer.step([0])
    assert sampler.get_metrics().items() <= before.items()
    assert sampler.get_metrics()["num_episodes"] > 0


def test_a_sampler_does_not_go_on_in_environments_that_others_have_played() -> None:
    policy = GymPolicy(MatchingEnv(), seed=1)
    sampler = fragments(make=MatchingEnv)
    sampler.sample(policy, STATES, 1)
    sampler.sample(policy, STATES, 1)
    evaluate(policy, gymnasium.wrappers.vector.RecordEpisodeStatistics(sampler.envs), 2)
    with pytest.raises(RuntimeError, match=r"not those of this sampler: evaluate\(\.\.\.\) or another"):
        sampler.sample(policy, STATES, 1)
    sampler.sample(policy, STATES, 1)
    another = FragmentSampler(sampler.envs, 6)
    another.sample(policy, STATES, 1)
    with pytest.raises(RuntimeError, match="not those of this sampler"):
        sampler.sample(policy, STATES, 1)


def test_environments_that_were_put_back_are_the_samplers_again() -> None:
    policy = GymPolicy(MatchingEnv(), seed=1)
    sampler = fragments(make=MatchingEnv)
    sampler.sample(policy, STATES, 1)
    state = sampler.state_dict()
    evaluate(policy, sampler.envs, 2)
    sampler.load_state_dict(state)
    sampler.sample(policy, STATES, 1)


class HasEquals(CartPoleVectorEnv):
    """Environments that are equal to others, and so have no hash."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HasEquals)

    __hash__ = None  # type: ignore[assignment]


def test_environments_that_are_equal_to_others_are_not_the_others() -> None:
    sampler = FragmentSampler(HasEquals(2), 4)
    policy = GymPolicy(sampler)
    sampler.sample(policy, [0, 1], 1)
    evaluate(policy, HasEquals(2), 2)
    sampler.sample(policy, [0, 1], 1)


def test_a_sampler_that_was_pickled_goes_on_in_its_environments() -> None:
    sampler = FragmentSampler(SyncVectorEnv([MatchingEnv] * 2), 6)
    policy = GymPolicy(sampler)
    sampler.sample(policy, [0, 1], 1)
    again = pickle.loads(pickle.dumps(sampler))
    again.sample(policy, [0, 1], 1)
    evaluate(policy, again.envs, 2)
    with pytest.raises(RuntimeError, match="not those of this sampler"):
        again.sample(policy, [0, 1], 1)


@pytest.mark.parametrize("among_others", [False, True])
def test_one_of_the_environments_that_others_have_played(among_others: bool) -> None:
    environments = [MatchingEnv(), MatchingEnv()]
    sampler = FragmentSampler(SyncVectorEnv([partial(TimeLimit, each, 100) for each in environments]), 6)
    policy = GymPolicy(sampler)
    sampler.sample(policy, [0, 1], 1)
    others: Any = environments[1]
    evaluate(policy, SyncVectorEnv([lambda: others, MatchingEnv]) if among_others else others, 2)
    with pytest.raises(RuntimeError, match="not those of this sampler"):
        sampler.sample(policy, [0, 1], 1)
    sampler.sample(policy, [0, 1], 1)


def test_environments_that_an_evaluation_failed_to_begin_are_others_too() -> None:
    class Stalls(MatchingEnv):
        stalls = False

        def reset(self, **options: Any) -> Any:
            if Stalls.stalls:
                raise RuntimeError("stalled")
            return super().reset(**options)

    sampler = FragmentSampler(SyncVectorEnv([MatchingEnv, Stalls]), 6)
    policy = GymPolicy(sampler)
    sampler.sample(policy, [0, 1], 1)
    Stalls.stalls = True
    with pytest.raises(EnvironmentFailedError):
        evaluate(policy, sampler.envs, 2)
    Stalls.stalls = False
    with pytest.raises(RuntimeError, match="not those of this sampler"):
        sampler.sample(policy, [0, 1], 1)


@pytest.mark.parametrize("wrapped", [lambda each: each, lambda each: gymnasium.wrappers.OrderEnforcing(each)])
def test_the_same_environment_twice_is_refused(wrapped: Callable[[Any], Any]) -> None:
    environment = MatchingEnv()
    with pytest.raises(ValueError, match="holds the same environment more than once among its 2"):
        FragmentSampler(SyncVectorEnv([lambda: wrapped(environment)] * 2), 6)
