"""Evaluation: whole episodes from known seeds, and statistics worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import EPISODES, MatchingEnv, ParityActor, ScriptedEnv, SpacesEnv, scripted_steps_between
from gymnasium import spaces
from torch import nn

from grpo_adapters.gym import EpisodeSampler, EvaluationResult, GymPolicy, act, evaluate


def last_layer(policy: GymPolicy) -> nn.Linear:
    return [layer for layer in policy.actor.modules() if isinstance(layer, nn.Linear)][-1]


def test_returns_and_lengths_of_the_script() -> None:
    result = evaluate(GymPolicy(ScriptedEnv(), ParityActor()), ScriptedEnv(), 4, seed=2)
    assert result.lengths.tolist() == [5, 1, 2, 4]
    expected = [
        sum(step.reward for step in scripted_steps_between(seed, 0, len(EPISODES[seed][0]))) for seed in range(2, 6)
    ]
    assert result.returns.tolist() == expected


def test_statistics_by_hand() -> None:
    result = EvaluationResult(np.array([1.0, 2.0, 6.0]), np.array([1, 1, 1]))
    assert result.mean == 3
    assert result.std == pytest.approx(math.sqrt(7))
    half = 1.96 * math.sqrt(7 / 3)
    assert result.interval == pytest.approx((3 - half, 3 + half))
    assert str(result) == "3.00 ± 2.65 over 3 episodes, 95% interval of the mean [0.01, 5.99]"


def test_a_single_episode_has_no_spread() -> None:
    result = EvaluationResult(np.array([4.0]), np.array([2]))
    assert result.std == 0
    assert result.interval == (4, 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_policy_is_left_alone(training: bool) -> None:
    policy = GymPolicy(ScriptedEnv(), torch.nn.Sequential(ParityActor(), torch.nn.Dropout(0.99)))
    policy.train(training)
    result = evaluate(policy, ScriptedEnv(), 2, seed=2)
    assert policy.training is policy.actor.training is training
    assert result.returns.tolist() == [7.5, -2.75]  # with the dropout off, or it would be another action now and then

    class Failing(ScriptedEnv):
        def step(self, action: Any) -> Any:
            raise RuntimeError("the wheel came off")

    with pytest.raises(RuntimeError, match="the wheel came off"):
        evaluate(policy, Failing(), 1)
    assert policy.training is training


def test_nothing_is_learnt_and_no_statistics_move() -> None:
    sampler = EpisodeSampler(lambda: gymnasium.make("CartPole-v1"), num_envs=2)
    policy = GymPolicy(sampler, normalize_observations=True)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    evaluate(policy, gymnasium.make("CartPole-v1"), 3)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert sampler.get_metrics() == {"num_episodes": 0.0}


def test_deterministic_evaluation_repeats_itself_and_drawing_does_not() -> None:
    policy, environment = GymPolicy(MatchingEnv()), MatchingEnv()
    with torch.no_grad():
        last_layer(policy).bias.copy_(torch.tensor([0.0, 0.0, 0.1]))
    runs = [evaluate(policy, environment, 30).returns.tolist() for _ in range(2)]
    assert runs[0] == runs[1]
    drawn = [evaluate(policy, environment, 30, deterministic=False).returns.tolist() for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert evaluate(policy, environment, 30, seed=0).returns.tolist() != runs[0]


def test_masks_are_honoured() -> None:
    """The environment refuses what it forbids."""
    policy, environment = GymPolicy(MatchingEnv()), MatchingEnv(masked=True)
    with torch.no_grad():
        last_layer(policy).bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert evaluate(policy, environment, 20).lengths.tolist() == [3] * 20
    assert evaluate(policy, environment, 20, deterministic=False).lengths.tolist() == [3] * 20
    environment.cue = 0
    assert act(policy, 0, {"action_mask": environment.mask()}) == 0
    assert act(policy, 0, {}) == 1


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}), spaces.Discrete(2, start=3)),
        (spaces.MultiBinary(4), spaces.MultiDiscrete([2, 3])),
        (spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,))),
    ],
)
def test_all_kinds_of_spaces(observation_space: Any, action_space: Any) -> None:
    """The environment checks that actions are in its space."""
    environment = SpacesEnv(observation_space, action_space)
    result = evaluate(GymPolicy(environment), environment, 2, deterministic=False)
    assert result.lengths.tolist() == [4, 4]


def test_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="num_episodes is 0, expected at least 1"):
        evaluate(GymPolicy(ScriptedEnv()), ScriptedEnv(), 0)
