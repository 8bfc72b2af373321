"""Evaluation: whole episodes from known seeds, and statistics worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import EPISODES, MatchingEnv, ParityActor, ScriptedEnv, SpacesEnv, scripted_steps_between
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import nn

from grpo import NonFiniteError
from grpo_adapters.gym import EpisodeSampler, EvaluationResult, GymPolicy, Player, act, evaluate
from grpo_adapters.gym.environments import checks


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


class Stuck(MatchingEnv):
    """After a step nothing is allowed, though the episode goes on."""

    def mask(self) -> Any:
        return super().mask() * (self.steps == 0)


def test_masks_that_allow_nothing() -> None:
    with pytest.raises(ValueError, match=r"environment 0, in episode 0 .* gave an action_mask that allows nothing"):
        evaluate(GymPolicy(MatchingEnv()), Stuck(masked=True), 1)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}), spaces.Discrete(2, start=3)),
        (spaces.MultiBinary(4), spaces.MultiDiscrete([2, 3])),
        (spaces.Box(-1, 1, ()), spaces.Discrete(2)),
        (spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,))),
    ],
)
def test_all_kinds_of_spaces(observation_space: Any, action_space: Any) -> None:
    """The environment checks that actions are in its space."""
    environment = SpacesEnv(observation_space, action_space)
    result = evaluate(GymPolicy(environment), environment, 2, deterministic=False)
    assert result.lengths.tolist() == [4, 4]


def of_old(returned: Any) -> Any:
    return returned[:-1]


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("reset", of_old, r"returned \(array.* from reset, expected \(observation, info\)"),
        ("reset", lambda returned: (returned[0], None), "info a dictionary, as gymnasium has it"),
        ("step", of_old, r"from step, expected \(observation, reward, terminated, truncated, info\)"),
        ("step", lambda returned: (returned[0], [1.0], *returned[2:]), r"gave the reward \[1.0\], expected one number"),
        ("step", lambda returned: (returned[0], None, *returned[2:]), "gave the reward None, expected one number"),
    ],
)
def test_environments_that_tell_something_else(method: str, change: Callable[[Any], Any], message: str) -> None:
    class Odd(ScriptedEnv):
        pass

    told = getattr(ScriptedEnv, method)
    setattr(Odd, method, lambda self, *values, **options: change(told(self, *values, **options)))
    with pytest.raises(TypeError, match=f"environment 0 .*{message}"):
        evaluate(GymPolicy(ScriptedEnv()), Odd(), 1)
    with pytest.raises(TypeError, match=f"the environment .seed 0. .*{message}"):
        GymPolicy(EpisodeSampler(Odd, 1)).generate_actions([0], 1)


def test_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="num_episodes is 0, expected at least 1"):
        evaluate(GymPolicy(ScriptedEnv()), ScriptedEnv(), 0)


def played_alone(policy: GymPolicy, make: Callable[[], Any], num_episodes: int, seed: int) -> EvaluationResult:
    """Episode by episode, in the plainest way."""
    environment, returns, lengths = make(), [], []
    for episode in range(num_episodes):
        (observation, info), rewards, is_over = environment.reset(seed=seed + episode), [], False
        while not is_over:
            action = act(policy, observation, info)
            observation, reward, terminated, truncated, info = environment.step(action)
            rewards.append(float(reward))
            is_over = terminated or truncated
        returns.append(sum(rewards))
        lengths.append(len(rewards))
    return EvaluationResult(np.array(returns), np.array(lengths), np.arange(seed, seed + num_episodes))


def vector(make: Callable[[], Any], mode: AutoresetMode, num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


def check_same(result: EvaluationResult, expected: EvaluationResult) -> None:
    assert result.lengths.tolist() == expected.lengths.tolist()
    assert result.returns == pytest.approx(expected.returns, rel=1e-5)
    assert result.seeds is not None
    assert expected.seeds is not None
    assert result.seeds.tolist() == expected.seeds.tolist()


MAKERS: dict[str, Callable[[], Any]] = {
    "scripted": ScriptedEnv,
    "masked": lambda: MatchingEnv(masked=True),
    "CartPole": lambda: gymnasium.make("CartPole-v1"),
    "Pendulum": lambda: gymnasium.make("Pendulum-v1", max_episode_steps=30),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_episodes_do_not_depend_on_what_is_played_beside_them(kind: str) -> None:
    make = MAKERS[kind]
    policy = GymPolicy(make(), seed=3)
    expected = played_alone(policy, make, 7, seed=20)
    assert len(set(expected.returns)) > 1
    check_same(evaluate(policy, make(), 7, seed=20), expected)
    for num_envs in (1, 3, 7, 9):
        check_same(evaluate(policy, make, 7, seed=20, num_envs=num_envs), expected)
        for mode in AutoresetMode:
            envs = vector(make, mode, num_envs)
            for _ in range(2):  # the second time it has been played before
                check_same(evaluate(policy, envs, 7, seed=20), expected)


def test_drawn_actions_do_not_depend_on_what_is_played_beside_them() -> None:
    policy = GymPolicy(MatchingEnv())
    state = policy.generator.get_state()
    results = []
    makers: list[Any] = [MatchingEnv(), vector(MatchingEnv, AutoresetMode.NEXT_STEP, 4)]
    for environment, num_envs in [*((maker, None) for maker in makers), (MatchingEnv, 5)]:
        policy.generator.set_state(state)
        results.append(evaluate(policy, environment, 9, deterministic=False, num_envs=num_envs))
        after = policy.generator.get_state()
    for result in results[1:]:
        check_same(result, results[0])
    policy.generator.set_state(state)
    torch.randint(2**62, (), generator=policy.generator)
    assert torch.equal(policy.generator.get_state(), after)


def test_in_other_processes() -> None:
    make = MAKERS["CartPole"]
    policy, envs = GymPolicy(make()), AsyncVectorEnv([make] * 2)
    try:
        check_same(evaluate(policy, envs, 5, seed=1), played_alone(policy, make, 5, seed=1))
    finally:
        envs.close()


class Streams(SyncVectorEnv):
    """Resets all environments at once and one by one in no other way than by itself, as those of other libraries do."""

    unwrapped = None  # type: ignore[assignment]

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        assert seed is None or isinstance(seed, int)
        if self.autoreset_mode is not AutoresetMode.DISABLED:
            assert options is None
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_vectors_that_reset_by_themselves_play_the_first_episodes_of_each(mode: AutoresetMode) -> None:
    """Of 7 episodes 3 in the first environment and 2 in the others, however short the other ones' are."""
    seed, num_envs = 2, 3
    envs = Streams([ScriptedEnv] * num_envs, autoreset_mode=mode)
    result = evaluate(GymPolicy(ScriptedEnv(), ParityActor()), envs, 7, seed=seed)
    expected = [
        len(EPISODES[(seed + episode % num_envs + episode // num_envs) % len(EPISODES)][0]) for episode in range(7)
    ]
    assert result.lengths.tolist() == expected
    assert result.seeds is None
    few = evaluate(GymPolicy(ScriptedEnv(), ParityActor()), envs, 2, seed=seed)
    assert few.lengths.tolist() == expected[:2]


def test_an_environment_that_computes_all_at_once() -> None:
    envs = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point")
    policy = GymPolicy(gymnasium.make("CartPole-v1"))
    runs = [evaluate(policy, envs, 7, seed=4) for _ in range(2)]
    assert runs[0].lengths.tolist() == runs[1].lengths.tolist() == runs[0].returns.tolist()
    assert min(runs[0].lengths) > 5


def test_what_was_made_is_closed_and_what_was_given_is_not() -> None:
    class Closes(ScriptedEnv):
        num_open = 0

        def __init__(self) -> None:
            super().__init__()
            Closes.num_open += 1

        def close(self) -> None:
            Closes.num_open -= 1

    given = Closes()
    evaluate(GymPolicy(given), given, 2)
    evaluate(GymPolicy(given), Closes, 9, num_envs=3)
    with pytest.raises(ValueError, match="was built for observations"):
        evaluate(GymPolicy(MatchingEnv()), Closes, 1)
    assert Closes.num_open == 1


def test_metrics() -> None:
    result = EvaluationResult(np.array([1.0, 2.0, 6.0]), np.array([1, 1, 4]))
    low, high = result.interval
    assert result.to_metrics() == {
        "mean_return": 3.0,
        "std_return": result.std,
        "mean_return_low": low,
        "mean_return_high": high,
        "mean_length": 2.0,
    }
    assert {type(value) for value in result.to_metrics().values()} == {float}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"environment": ScriptedEnv, "num_envs": 0}, ValueError, "num_envs is 0, expected at least 1"),
        ({"environment": ScriptedEnv(), "num_envs": 2}, ValueError, "num_envs is 2, .* only for a function that makes"),
        ({"environment": "CartPole-v1"}, TypeError, "environment is a str, expected an environment, a vector environm"),
        ({"environment": list}, TypeError, "make_environment made a list"),
        (
            {"environment": MatchingEnv},
            ValueError,
            "was built for .* but MatchingEnv plays .*: build the policy",
        ),
        ({"environment": ScriptedEnv, "seed": -1}, TypeError, "seed is -1, expected a seed"),
        (
            {"environment": lambda: ScriptedEnv(bad_observation=(3, 0, 0)), "seed": 2, "num_episodes": 2},
            NonFiniteError,
            r"environment 1, in episode 1 of the evaluation \(from the seed 2\), gave the observation \[nan, ",
        ),
        (
            {"environment": lambda: ScriptedEnv(bad_reward=(3, 0, 0)), "seed": 2, "num_episodes": 2},
            NonFiniteError,
            r"environment 1, in episode 1 of the evaluation \(from the seed 2\), gave the reward inf",
        ),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(GymPolicy(ScriptedEnv()), **arguments)


@pytest.mark.parametrize("way", ["predict", "act", "player"])
def test_what_is_played_is_played_in_evaluation_mode(way: str) -> None:
    frozen = nn.Dropout(0.5)
    policy = GymPolicy(ScriptedEnv(), nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.9), frozen, nn.Linear(64, 2)))
    frozen.eval()
    observations = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    ways: dict[str, Callable[[], Any]] = {
        "predict": lambda: policy.predict(observations).tolist(),
        "act": lambda: [int(act(policy, own, {})) for own in observations],
        "player": lambda: Player(policy)(observations).tolist(),
    }
    played = ways[way]()
    assert policy.training
    assert not frozen.training
    with torch.no_grad():
        assert played == policy.eval().actor(torch.from_numpy(observations)).argmax(1).tolist()


def test_an_episode_that_may_never_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def play() -> None:
        evaluate(GymPolicy(ScriptedEnv()), ScriptedEnv(), 6)
        GymPolicy(EpisodeSampler(ScriptedEnv, 2)).generate_actions([2, 5], 1)

    play()
    monkeypatch.setattr(checks, "ENDLESS", 4)
    with pytest.warns(
        UserWarning, match="an episode has 4 steps by now, and its environment has no time limit"
    ) as told:
        play()
    assert len(told) > 2
    monkeypatch.setattr(ScriptedEnv, "spec", gymnasium.spec("CartPole-v1"))
    play()
