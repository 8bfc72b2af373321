"""Observations and actions that their space does not fit: errors that name the part, with a fix that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from torch import nn

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import (
    GRU,
    Categorical,
    DiagonalGaussian,
    DictEncoder,
    EnvironmentReward,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    ImpalaCNN,
    JointDistribution,
    MultiCategorical,
    ObservationEncoder,
    StateDependentExploration,
    act,
    distribution_for,
    evaluate,
    without_keys,
)

PARTS = spaces.Dict(
    arm=spaces.Dict(grip=spaces.Discrete(3, start=1), joints=spaces.Box(-1, 1, (2,))),
    camera=spaces.Box(0, 255, (8, 8, 3), np.uint8),
    keys=spaces.MultiBinary(2),
    pair=spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.Text(3, charset="ab"))),
)
BOX = spaces.Box(-1, 1, (2,))


class Scripted(gymnasium.Env[Any, Any]):
    """Gives one observation all the time, in episodes of two steps."""

    def __init__(self, space: Any, seen: Any, action_space: Any = None) -> None:
        self.observation_space, self.seen = space, seen
        self.action_space = spaces.Discrete(2) if action_space is None else action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        self.time += 1
        return self.seen, 0.0, self.time == 2, False, {}


def seen(**others: Any) -> dict[str, Any]:
    return {
        "arm": {"grip": np.int64(2), "joints": np.zeros(2, np.float32)},
        "camera": np.zeros((8, 8, 3), np.uint8),
        "keys": np.array([0, 1], np.int8),
        "pair": (np.array([1, 2]), "ab"),
        **others,
    }


JOINTS, PAIR = np.zeros(2, np.float32), np.array([1, 2])
OTHERS: list[tuple[str, Any, str]] = [
    ("arm", {"grip": 1.5, "joints": JOINTS}, r"part 'arm/grip' of the observation .*1\.5.* is not in its space"),
    ("arm", {"grip": np.nan, "joints": JOINTS}, "part 'arm/grip' of the observation .*nan.* is not in its space"),
    (
        "arm",
        {"grip": [1, 2], "joints": JOINTS},
        r"part 'arm/grip' of the observation came in shape \[2\], expected \[\]",
    ),
    (
        "arm",
        {"grip": 1},
        r"part 'arm' of the observation came as keys \['grip'\], expected the keys \['grip', 'joints'\]",
    ),
    ("arm", {"grip": 1, "joints": JOINTS, "wrist": 1}, "part 'arm' of the observation came as keys .*'wrist'"),
    ("arm", JOINTS, "part 'arm' of the observation came as ndarray, expected the keys"),
    (
        "arm",
        {"grip": 1, "joints": 1j * JOINTS},
        "part 'arm/joints' of the observation came as complex64, expected real",
    ),
    ("arm", {"grip": 1, "joints": None}, "part 'arm/joints' of the observation came as object, expected real"),
    ("arm", {"grip": 1, "joints": np.zeros(3)}, r"part 'arm/joints' of the observation came in shape \[3\], expected"),
    ("camera", np.full((8, 8, 3), -1), "part 'camera' of the observation came as int64 from -1 to -1"),
    ("camera", np.zeros((3, 8, 8), np.uint8), r"part 'camera' .* shape \[3, 8, 8\], expected \[8, 8, 3\].*moveaxis"),
    ("keys", np.array([0, 7]), "part 'keys' of the observation .*0, 7.* is not in its space MultiBinary"),
    ("pair", (PAIR,), r"part 'pair' of the observation came as entries \[0\], expected the entries \[0, 1\]"),
    ("pair", (PAIR, "ab", 0), "part 'pair' of the observation came as entries"),
    ("pair", (np.array([1, 3]), "ab"), "part 'pair/0' of the observation .* is not in its space"),
    ("pair", (np.array([1]), "ab"), r"part 'pair/0' of the observation came in shape \[1\], expected \[2\]"),
    ("pair", (PAIR, "abc d"), "part 'pair/1' of the observation 'abc d', which is not in its space"),
]


@pytest.mark.parametrize(("key", "wrong", "message"), OTHERS)
def test_a_part_outside_of_its_space_is_named_and_what_is_advised_works(key: str, wrong: Any, message: str) -> None:
    environment = Scripted(PARTS, seen(**{key: wrong}))
    policy = GymPolicy(environment)
    with pytest.raises(ValueError, match=message) as raised:
        evaluate(policy, environment, 1)
    advice = str(raised.value)
    assert "gymnasium.wrappers.TransformObservation" in advice
    mended = gymnasium.wrappers.TransformObservation(environment, lambda _: seen(), PARTS)
    assert evaluate(policy, mended, 1).lengths.tolist() == [2]
    if "without_keys" in advice:
        assert f"without_keys(environment, {key!r})" in advice
        without = without_keys(environment, key)
        assert evaluate(GymPolicy(without), without, 1).lengths.tolist() == [2]


@pytest.mark.parametrize(
    ("space", "observations"),
    [
        (spaces.Discrete(3), np.array([[0, 1], [1, 2]])),
        (spaces.MultiDiscrete([3, 2]), np.array([[0], [1], [1], [1]])),
        (spaces.MultiDiscrete([3, 2]), np.array([0, 1, 1, 1])),
        (BOX, np.zeros((3, 3))),
        (BOX, [[0.0, 1.0], [0.0]]),
        (BOX, np.array([["0", "1"]])),
    ],
)
def test_rows_are_never_cut_otherwise(space: Any, observations: Any) -> None:
    with pytest.raises(ValueError, match=r"an observation came .*gymnasium\.wrappers\.TransformObservation"):
        ObservationEncoder(space)(observations)


def test_parts_of_different_lengths_are_not_repeated() -> None:
    for space in (spaces.Dict(a=BOX, b=BOX), spaces.Tuple((BOX, BOX))):
        names = list(ObservationEncoder(space).parts)
        given = [np.zeros((2, 2)), np.zeros((1, 2))]
        observations = dict(zip(names, given, strict=True)) if isinstance(space, spaces.Dict) else tuple(given)
        with pytest.raises(ValueError, match=r"came in lengths .*2.*1.*expected one length"):
            ObservationEncoder(space)(observations)


@pytest.mark.parametrize(
    ("space", "one"),
    [(BOX, np.zeros(2)), (spaces.Discrete(3), 1), (spaces.MultiDiscrete([2, 3]), PAIR), (spaces.Text(3), "ab")],
)
def test_one_observation_where_several_are_expected(space: Any, one: Any) -> None:
    environment = Scripted(space, one)
    policy = GymPolicy(environment)
    with pytest.raises(ValueError, match=r"came a.*one to act\(policy, observation, info\)"):
        policy.predict(one)
    assert act(policy, one, {}) in environment.action_space


def test_a_key_with_a_slash_is_a_part_of_its_own() -> None:
    space = spaces.Dict({"arm": BOX, "arm/joint": BOX, "camera": PARTS["camera"]})
    given = {"arm": np.array([1.0, 2.0]), "arm/joint": np.array([3.0, 4.0]), "camera": np.zeros((8, 8, 3), np.uint8)}
    features = ObservationEncoder(space).single(given)
    assert features["arm"].tolist() == [1, 2]
    assert features["arm/joint"].tolist() == [3, 4]


def test_parts_of_the_same_path_are_refused() -> None:
    space = spaces.Dict({"arm": spaces.Dict(joint=BOX), "arm/joint": BOX})
    with pytest.raises(TypeError, match=r"two parts of the path 'arm/joint'.*TransformObservation or TransformAction"):
        ObservationEncoder(space)
    with pytest.raises(TypeError, match="two parts of the path 'arm/joint'"):
        distribution_for(space)
    renamed = gymnasium.wrappers.TransformObservation(
        Scripted(space, {"arm": {"joint": JOINTS}, "arm/joint": JOINTS}),
        lambda own: {"arm": own["arm"], "other": own["arm/joint"]},
        spaces.Dict(arm=space["arm"], other=BOX),
    )
    assert evaluate(GymPolicy(renamed), renamed, 1).lengths.tolist() == [2]


def test_frames_of_too_many_dimensions_name_their_part() -> None:
    part = spaces.Box(0, 255, (2, 2, 8, 8, 3), np.uint8)
    environment = Scripted(spaces.Dict(camera=part), {"camera": np.zeros(part.shape, np.uint8)})
    with pytest.raises(TypeError, match=r"the part 'camera' of the observation.*encoders={'camera': \.\.\.}"):
        GymPolicy(environment)
    trunk = DictEncoder(environment.observation_space, encoders={"camera": nn.Flatten()})
    assert evaluate(GymPolicy(environment, trunk=trunk), environment, 1).lengths.tolist() == [2]
    alone = Scripted(part, np.zeros(part.shape, np.uint8))
    with pytest.raises(TypeError, match="a network of your own"):
        GymPolicy(alone)
    assert evaluate(GymPolicy(alone, trunk=nn.Flatten()), alone, 1).lengths.tolist() == [2]
    with pytest.raises(ValueError, match=r"say it, NatureCNN\(space, channels='last'\)"):
        GymPolicy(Scripted(cube := spaces.Box(0, 255, (9, 9, 9), np.uint8), None))
    named = Scripted(cube, np.zeros((9, 9, 9), np.uint8))
    assert evaluate(GymPolicy(named, trunk=ImpalaCNN(cube, channels="last")), named, 1).lengths.tolist() == [2]


@pytest.mark.parametrize(
    ("distribution", "space", "expected"),
    [
        (Categorical, BOX, "a Discrete"),
        (MultiCategorical, spaces.Discrete(2), "a MultiDiscrete or MultiBinary"),
        (DiagonalGaussian, spaces.Box(0, 5, (2,), np.int32), "a Box of floating-point numbers"),
        (DiagonalGaussian, spaces.Discrete(2), "a Box of floating-point numbers"),
        (StateDependentExploration, spaces.Dict(steer=BOX), "a Box of floating-point numbers"),
        (JointDistribution, BOX, "a Dict or Tuple"),
    ],
)
def test_a_distribution_of_another_space(distribution: Callable[..., Any], space: Any, expected: str) -> None:
    name = getattr(distribution, "__name__", "")
    environment = Scripted(BOX, JOINTS, space)
    with pytest.raises(TypeError, match=rf"{name} was given the action space .*, expected {expected}.*TransformAction"):
        GymPolicy(environment, distribution=distribution)
    if space != spaces.Box(0, 5, (2,), np.int32):
        assert evaluate(GymPolicy(environment), environment, 1).lengths.tolist() == [2]  # without distribution=


def test_actions_of_a_space_that_has_no_distribution() -> None:
    whole = spaces.Box(0, 5, (2,), np.int32)
    environment = Scripted(BOX, JOINTS, spaces.Dict(gear=spaces.Discrete(2), steer=whole))
    with pytest.raises(TypeError, match=r"part 'steer' is not supported.*gymnasium\.wrappers\.TransformAction"):
        GymPolicy(environment)
    mended = gymnasium.wrappers.TransformAction(
        environment,
        lambda own: {**own, "steer": own["steer"].astype(np.int32)},
        spaces.Dict(gear=spaces.Discrete(2), steer=spaces.MultiDiscrete([6, 6])),
    )
    assert evaluate(GymPolicy(mended), mended, 1).lengths.tolist() == [2]


def test_spaces_without_parts() -> None:
    nothing_seen = Scripted(spaces.Dict(), {})
    with pytest.raises(
        TypeError, match=r"observation space .* has no parts, expected something to decide on: name a key"
    ):
        GymPolicy(nothing_seen)
    seen_now = gymnasium.wrappers.TransformObservation(
        nothing_seen, lambda _: {"joints": JOINTS}, spaces.Dict(joints=BOX)
    )
    assert evaluate(GymPolicy(seen_now), seen_now, 1).lengths.tolist() == [2]
    nothing_done = Scripted(BOX, JOINTS, spaces.Dict())
    with pytest.raises(TypeError, match=r"action space .* has no parts, expected something to decide: name a key"):
        GymPolicy(nothing_done)
    done_now = gymnasium.wrappers.TransformAction(nothing_done, lambda _: {}, spaces.Dict(gear=spaces.Discrete(2)))
    assert evaluate(GymPolicy(done_now), done_now, 1).lengths.tolist() == [2]


@pytest.mark.parametrize("initial_std", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("distribution", [DiagonalGaussian, StateDependentExploration])
def test_a_standard_deviation_that_is_none(distribution: Callable[..., Any], initial_std: float) -> None:
    with pytest.raises(
        ValueError, match=f"initial_std is {initial_std}, expected a finite standard deviation above 0: 1.0"
    ):
        distribution(BOX, initial_std=initial_std)
    assert isinstance(distribution(BOX, initial_std=1.0), nn.Module)


def test_a_part_of_an_action_that_leaves_nothing_to_choose() -> None:
    fixed = spaces.Box(1, 1, (1,))
    environment = Scripted(BOX, JOINTS, spaces.Dict(gear=spaces.Discrete(2), steer=fixed))
    with pytest.raises(ValueError, match=r"part 'steer' of the action.*gymnasium\.wrappers\.TransformAction"):
        GymPolicy(environment)
    mended = gymnasium.wrappers.TransformAction(
        environment, lambda own: {**own, "steer": np.ones(1, np.float32)}, spaces.Dict(gear=spaces.Discrete(2))
    )
    assert evaluate(GymPolicy(mended), mended, 1).lengths.tolist() == [2]


def test_a_memory_behind_parts_that_stay_apart() -> None:
    envs = SyncVectorEnv([lambda: Scripted(PARTS, seen())] * 2)
    sampler = FragmentSampler(envs, num_steps=7)
    gru = GRU(256, 4)
    policy = GymActorCritic(sampler, memory=gru, window=3, burn_in=2)
    fragments = [group[0] for group in sampler.sample(policy, sampler.states, 1)]
    evaluated = policy.evaluate_actions(policy.encode_actions(sampler.states, fragments)).log_probs
    by_hand = []
    for fragment in fragments:
        for length in fragment.episode_lengths:
            memory = None
            for _ in range(length):
                units, memory = gru(policy.units(fragment.observations[:1]), memory)
                by_hand.append(policy.actor(units).log_softmax(-1)[0])
    decisions = torch.cat([fragment.decisions for fragment in fragments])
    chosen = torch.stack(by_hand).gather(1, decisions.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(evaluated, chosen)
    trainer: PPOTrainer[Any, Any] = PPOTrainer(PPOConfig(), policy, EnvironmentReward())
    assert np.isfinite(trainer.step(sampler.states)["loss"])
