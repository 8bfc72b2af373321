"""Dict and Tuple observations that reach a network as such."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from grpo import GRPOConfig, GRPOTrainer, NonFiniteError, PPOConfig, PPOTrainer, check_policy_model
from grpo_adapters.gym import (
    GRU,
    Columns,
    DictEncoder,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    ImpalaCNN,
    ObservationEncoder,
    act,
    evaluate,
    replay,
    save_rollouts,
    without_keys,
)

ARM = spaces.Dict(
    camera=spaces.Box(0, 255, (8, 8, 3), np.uint8),
    gear=spaces.Discrete(3, start=1),
    joints=spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(3))),
    order=spaces.Text(4, charset="abc"),
    switches=spaces.MultiDiscrete([2, 3]),
)
PATHS = ["camera", "gear", "joints/0", "joints/1", "order", "switches"]


class ArmEnv(gymnasium.Env[Any, Any]):
    """Observes samples of its space, in episodes of three steps; the reward is 1 for the action that the gear names."""

    def __init__(self, space: Any = ARM, *, bad_step: int = -1) -> None:
        self.observation_space, self.action_space = deepcopy(space), spaces.Discrete(3)
        self.bad_step, self.time = bad_step, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(int(action) + 1 == self.seen.get("gear")) if isinstance(self.seen, dict) else 0.0
        self.time += 1
        return self._observe(), reward, self.time == 3, False, {}

    def _observe(self) -> Any:
        self.seen = self.observation_space.sample()
        if self.time == self.bad_step:
            self.seen["joints"] = (np.full(2, np.nan, np.float32), self.seen["joints"][1])
        return self.seen


def arms(space: Any = ARM, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: ArmEnv(space, **settings)] * 2, autoreset_mode=mode)


OBSERVED: dict[str, Any] = {
    "camera": np.arange(192, dtype=np.uint8).reshape(8, 8, 3),
    "gear": np.int64(3),
    "joints": (np.array([0.5, -1], np.float32), np.array([0, 1, 1], np.int8)),
    "order": "cab",
    "switches": np.array([1, 2]),
}


def test_parts_stay_apart_in_types_of_their_own() -> None:
    encoder = ObservationEncoder(ARM)
    assert list(encoder.parts) == PATHS
    features = encoder.single(OBSERVED)
    assert np.array_equal(features["camera"], OBSERVED["camera"])
    assert features["camera"].dtype == np.uint8
    assert features["gear"] == 2
    assert features["joints/0"].tolist() == [0.5, -1]
    assert features["joints/1"].tolist() == [0, 1, 1]
    assert features["order"].tolist() == [3, 1, 2, 0]
    assert features["switches"].tolist() == [1, 2]
    assert features["switches"].dtype == np.int64


def test_a_vector_of_environments_is_encoded_like_each_of_them() -> None:
    envs, alone = arms(), [ArmEnv(), ArmEnv()]
    encoder = ObservationEncoder(ARM)
    together = encoder(envs.reset(seed=5)[0])
    for row, environment, seed in zip(together, alone, (5, 6), strict=True):
        assert row.tobytes() == encoder.single(environment.reset(seed=seed)[0]).tobytes()


def test_columns() -> None:
    columns = Columns({"a": torch.arange(6).reshape(3, 2), "b": torch.ones(3)})
    assert columns[torch.tensor([2, 0])]["a"].tolist() == [[4, 5], [0, 1]]
    assert columns.to("cpu", torch.float64)["b"].dtype == torch.float64
    assert columns.to("cpu", torch.float64)["a"].dtype == torch.int64
    assert [len(part) for part in columns.split([1, 2])] == [1, 2]
    assert list(columns) == ["a", "b"]
    assert repr(columns) == "Columns({'a': [3, 2], 'b': [3]})"
    with pytest.raises(ValueError, match=r"lengths {'a': 3, 'b': 2}, expected one length"):
        Columns({"a": torch.ones(3), "b": torch.ones(2)})


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_rollout_of_columns_is_what_was_seen(mode: AutoresetMode) -> None:
    sampler = FragmentSampler(arms(mode=mode), num_steps=9, seed=3)
    policy = GymActorCritic(sampler)
    groups = sampler.sample(policy, sampler.states, 1)
    batch = policy.encode_actions(sampler.states, [group[0] for group in groups])
    seen = batch.observations
    assert isinstance(seen, Columns)
    rewarded = batch.decisions == seen["gear"]
    rewards = torch.cat([group[0].rewards for group in groups])
    assert rewards.tolist() == rewarded.float().tolist()
    pointers = {groups[0][0].observations[name].untyped_storage().data_ptr() for name in PATHS}
    assert {seen[name].untyped_storage().data_ptr() for name in PATHS} == pointers
    assert seen["camera"].dtype == torch.uint8
    values = policy.estimate_values(batch)
    assert values.next_values.shape == (len(batch.decisions),)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_policy_of_a_structured_space_is_a_policy_model(*, normalize: bool) -> None:
    policy = GymActorCritic(FragmentSampler(arms(), num_steps=4), normalize_observations=normalize)
    assert isinstance(policy.trunk, DictEncoder)
    check_policy_model(policy, [0, 1], num_actions_per_state=1, num_samples=200)


def test_training_by_fragments_and_by_episodes() -> None:
    fragments = FragmentSampler(arms(), num_steps=8)
    policy = GymActorCritic(fragments, normalize_observations=True)
    before = {name: parameter.clone() for name, parameter in policy.get_parameters().items()}
    metrics = PPOTrainer(PPOConfig(), policy, EnvironmentReward(), sampler=fragments).step(fragments.states)
    assert np.isfinite(metrics["loss"])
    assert [name for name, parameter in policy.get_parameters().items() if parameter.equal(before[name])] == []
    assert policy.normalization is not None
    assert policy.normalization.parts[0].count > 0

    episodes = EpisodeSampler(ArmEnv, num_envs=3)
    trainer = GRPOTrainer(GRPOConfig(group_size=2), GymPolicy(episodes), EnvironmentReward(), sampler=episodes)
    assert trainer.step([0, 1, 2])["num_episodes"] == 6


def test_a_memory_behind_the_encoders() -> None:
    """However its steps are cut into rows, each with the state that it was sampled from, or a burn-in before it."""
    found = []
    several: list[dict[str, Any]] = [{}, {"window": 1}, {"window": 4, "burn_in": 2}]
    for options in several:
        torch.manual_seed(0)
        sampler = FragmentSampler(arms(mode=AutoresetMode.SAME_STEP), num_steps=8)
        policy = GymActorCritic(sampler, memory=GRU(256, 8), **options)
        for _ in range(2):
            trajectories = [group[0] for group in sampler.sample(policy, sampler.states, 1)]
        found.append(policy.evaluate_actions(policy.encode_actions(sampler.states, trajectories)))
    for other in found[1:]:
        torch.testing.assert_close(other.log_probs, found[0].log_probs)
        torch.testing.assert_close(other.values, found[0].values)


def test_evaluation_prediction_and_replay(tmp_path: Any) -> None:
    policy = GymPolicy(ArmEnv())
    together = evaluate(policy, ArmEnv, 4, num_envs=3)
    assert together.returns.tolist() == evaluate(policy, arms(), 4).returns.tolist()
    assert act(policy, OBSERVED, {}) in policy.action_space
    save_rollouts(tmp_path / "arm.npz", policy, ArmEnv, 2)
    assert replay(tmp_path / "arm.npz", ArmEnv) == []


def test_a_sampler_of_columns_goes_on_bit_for_bit() -> None:
    def sampled(sampler: FragmentSampler, policy: GymPolicy) -> list[Tensor]:
        groups = sampler.sample(policy, sampler.states, 1)
        return [group[0].observations["camera"] for group in groups]

    sampler = FragmentSampler(arms(), num_steps=4)
    policy = GymPolicy(sampler)
    sampler.sample(policy, sampler.states, 1)
    state, own = sampler.state_dict(), policy.state_dict()
    expected = sampled(sampler, policy)
    other = FragmentSampler(arms(), num_steps=4)
    restored = GymPolicy(other)
    other.load_state_dict(state)
    restored.load_state_dict(own)
    assert all(a.equal(b) for a, b in zip(expected, sampled(other, restored), strict=True))


def test_what_is_not_finite_in_a_part_is_found() -> None:
    sampler = FragmentSampler(arms(bad_step=2), num_steps=4, seed=7)
    policy = GymPolicy(sampler)
    with pytest.raises(
        NonFiniteError, match=r"environment 0 \(seed 7\) gave the observation {'joints/0': \[nan, nan\]} at step 2"
    ):
        sampler.sample(policy, sampler.states, 1)
    with pytest.raises(NonFiniteError, match="at step 2"):
        EpisodeSampler(lambda: ArmEnv(bad_step=2)).sample(policy, [0], 1)
    with pytest.raises(
        NonFiniteError, match=r"in episode 0 of the evaluation .* gave the observation {'joints/0': \[nan, nan\]}"
    ):
        evaluate(policy, ArmEnv(bad_step=2), 1)


FLAT = spaces.Dict(gear=spaces.Discrete(3, start=1), speed=spaces.Box(-1, 1, (2, 1)), keys=spaces.MultiDiscrete([2, 2]))


def test_flat_dictionaries_stay_flat_and_are_split_where_a_trunk_asks() -> None:
    environment = ArmEnv(FLAT)
    assert GymPolicy(environment).trunk is None
    encoder = DictEncoder(FLAT, embedding_size=4, num_units=8)
    seen = {"gear": np.array([3]), "speed": np.array([[[0.5], [1.0]]], np.float32), "keys": np.array([[0, 1]])}
    features = torch.from_numpy(ObservationEncoder(FLAT)(seen))
    columns = encoder.encoder.by_key(features)
    assert {name: part.tolist() for name, part in columns.items()} == {
        "gear": [[0, 0, 1]],
        "keys": [[1, 0, 0, 1]],
        "speed": [[[0.5], [1.0]]],
    }
    by_number = Columns({"gear": torch.tensor([2]), "keys": torch.tensor([[0, 1]]), "speed": columns["speed"]})
    torch.testing.assert_close(encoder(features), encoder(by_number))
    policy = GymPolicy(environment, trunk=encoder)
    assert evaluate(policy, environment, 2).lengths.tolist() == [3, 3]


def test_a_dict_of_dicts_and_a_tuple_and_a_text() -> None:
    for space in (
        spaces.Dict(inner=spaces.Dict(number=spaces.Discrete(2))),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))),
        spaces.Text(5),
    ):
        environment = ArmEnv(space)
        assert isinstance(GymPolicy(environment).trunk, DictEncoder)
        assert evaluate(GymPolicy(environment), partial(ArmEnv, space), 3, num_envs=2).lengths.sum() == 9


class Halves(nn.Module):
    def forward(self, part: Tensor) -> Tensor:
        return part.flatten(1)[:, :1]


def test_encoders_by_key() -> None:
    encoder = DictEncoder(ARM, encoders={"camera": Halves(), "joints/0": Halves()}, num_units=3)
    num_embeddings = 1 + 4 + 2
    assert encoder.last.in_features == 1 + 1 + 3 + 16 * num_embeddings
    with pytest.raises(ValueError, match=r"encoders name the parts \['radar'\] of the observation, expected some of"):
        DictEncoder(ARM, encoders={"radar": Halves()})
    with pytest.raises(ValueError, match=r"the encoder of 'camera' gave shape \[2, 8, 8, 3\].*end it with nn\.Flatten"):
        DictEncoder(ARM, encoders={"camera": nn.Identity()})
    assert DictEncoder(ARM, encoders={"camera": nn.Flatten()}).last.out_features == 256


def test_where_a_text_ends_nothing_is_learnt() -> None:
    encoder = DictEncoder(spaces.Text(3, charset="ab"), embedding_size=4)
    encoder(Columns({"text": torch.tensor([[1, 0, 0]])})).sum().backward()
    embedding: Any = encoder.networks[0]
    assert embedding.embedding.weight[0].tolist() == [0] * 4
    assert embedding.embedding.weight.grad[0].tolist() == [0] * 4
    assert embedding.embedding.weight.grad[1].abs().sum() > 0


class Mission(gymnasium.Space[str]):
    """A space of one's own."""


def test_an_unsupported_part_is_named_and_can_be_dropped() -> None:
    space = spaces.Dict(mission=Mission(), speed=spaces.Box(-1, 1, (2,)))
    environment = gymnasium.wrappers.TransformObservation(
        ArmEnv(FLAT), lambda seen: {"mission": "go", "speed": seen["speed"].reshape(2)}, space
    )
    with pytest.raises(TypeError, match=r"part 'mission' of the observation .*without_keys\(environment, 'mission'\)"):
        GymPolicy(environment)
    policy = GymPolicy(without_keys(environment, "mission"))
    assert evaluate(policy, without_keys(environment, "mission"), 1).lengths.tolist() == [3]


def test_keys_are_dropped_of_vectors_too() -> None:
    envs = without_keys(arms(), "camera", "order")
    sampler = FragmentSampler(envs, num_steps=3)
    [trajectory], _ = sampler.sample(GymPolicy(sampler), sampler.states, 1)
    assert list(trajectory.observations) == ["gear", "joints/0", "joints/1", "switches"]
    with pytest.raises(ValueError, match=r"asked to drop \['radar'\] of the keys \['camera'"):
        without_keys(arms(), "radar")
    with pytest.raises(ValueError, match="leave one"):
        without_keys(ArmEnv(FLAT), *FLAT)
    with pytest.raises(TypeError, match="expected a Dict"):
        without_keys(gymnasium.make("CartPole-v1"), "speed")


AMISS: list[tuple[str, Any, str]] = [
    ("gear", np.int64(4), "the part 'gear' of the observation .*4.*, which is not in its space"),
    ("switches", np.array([2, 0]), "the part 'switches' of the observation"),
    ("order", "dad", "the part 'order' of the observation 'dad'"),
    ("order", "abcab", "the part 'order' of the observation 'abcab'"),
    (
        "camera",
        np.zeros((3, 8, 8), np.uint8),
        r"the part 'camera' .* shape \[3, 8, 8\], expected \[8, 8, 3\].*moveaxis",
    ),
    ("camera", np.full((8, 8, 3), 0.5), r"the part 'camera' .* came as float64 from 0.5 to 0.5, expected uint8"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), AMISS)
def test_parts_outside_of_their_space_are_named(name: str, wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObservationEncoder(ARM).single({**OBSERVED, name: wrong})
    without = without_keys(ArmEnv(), name)
    assert evaluate(GymPolicy(without), without, 1).lengths.tolist() == [3]


def test_an_image_among_the_parts_that_does_not_tell_its_channels() -> None:
    space = spaces.Dict(camera=spaces.Box(0, 255, (5, 5, 5), np.uint8), gear=spaces.Discrete(3, start=1))
    with pytest.raises(ValueError, match=r"part 'camera' of the observation.*say it.*in encoders={'camera': \.\.\.}"):
        GymPolicy(ArmEnv(space))
    own = DictEncoder(space, encoders={"camera": ImpalaCNN(space["camera"], channels="last")})
    assert evaluate(GymPolicy(ArmEnv(space), trunk=own), ArmEnv(space), 1).lengths.tolist() == [3]


def test_a_dict_without_keys() -> None:
    with pytest.raises(TypeError, match="has no parts"):
        ObservationEncoder(spaces.Dict())
