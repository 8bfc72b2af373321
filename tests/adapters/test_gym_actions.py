"""Actions of every kind: several at once, of mixed kinds, with noise that follows the state."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from grpo import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer, check_policy_model
from grpo_adapters.gym import (
    Categorical,
    DiagonalGaussian,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    JointDistribution,
    StateDependentExploration,
    act,
    distribution_for,
    evaluate,
    replay,
    save_rollouts,
)

MIXED = spaces.Dict(
    gear=spaces.Discrete(3, start=2),
    keys=spaces.MultiBinary((2, 2)),
    arm=spaces.Tuple((spaces.Box(-1, 1, (2, 1)), spaces.MultiDiscrete([2, 3], start=[1, 0]))),
)
DISCRETE = spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]))))
SPACES = [
    MIXED,
    DISCRETE,
    spaces.MultiBinary(3),
    spaces.Box(-1, 1, (2, 2)),
    spaces.MultiBinary((2, 2)),
]


class ObeyEnv(gymnasium.Env[Any, Any]):
    """Refuses what is not in its action space; episodes of three steps."""

    def __init__(self, action_space: Any = MIXED) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), action_space
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space, action
        self.time += 1
        reward = float(action["gear"] == 3) if isinstance(action, dict) else 0.0
        return self._observe(), reward, self.time == 3, False, {}

    def _observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)


def obeying(action_space: Any = MIXED) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: ObeyEnv(action_space)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def drawn(distribution: Any, outputs: Tensor, masks: Tensor | None = None) -> Tensor:
    noise = distribution.noise((len(outputs),), torch.Generator().manual_seed(1))
    decisions: Tensor = distribution.sample(outputs, noise, masks)
    return decisions


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_actions_are_played_in_vectors_alone_and_in_episodes(space: Any) -> None:
    fragments = FragmentSampler(obeying(space), num_steps=5)
    policy = GymActorCritic(fragments)
    is_discrete = "DiagonalGaussian" not in repr(policy.distribution)
    check_policy_model(policy, fragments.states, num_actions_per_state=1, discrete=is_discrete, num_samples=300)
    PPOTrainer(PPOConfig(), policy, EnvironmentReward()).step(fragments.states)
    episodes = EpisodeSampler(lambda: ObeyEnv(space), num_envs=2)
    GRPOTrainer(GRPOConfig(group_size=2), GymPolicy(episodes), EnvironmentReward()).step([0, 1])
    for deterministic in (True, False):
        together = evaluate(policy, lambda: ObeyEnv(space), 3, num_envs=2, deterministic=deterministic)
        assert together.lengths.tolist() == [3, 3, 3]
        assert act(policy, np.zeros(2, np.float32), {}, deterministic=deterministic) in space
    assert evaluate(policy, obeying(space), 3).lengths.tolist() == [3, 3, 3]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_rollouts_of_any_actions_are_played_again(space: Any, tmp_path: Any) -> None:
    make = partial(ObeyEnv, space)
    save_rollouts(tmp_path / "some.npz", GymPolicy(make()), make, 2, deterministic=False)
    assert replay(tmp_path / "some.npz", make) == []


def test_a_joint_log_prob_is_the_sum_over_its_parts() -> None:
    gears, wheel = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
    joint = JointDistribution(spaces.Dict(gear=gears, steer=wheel))
    outputs = normal(5, 5)
    decisions = drawn(joint, outputs)
    assert decisions.dtype == torch.float32
    gear, steer = Categorical(gears), DiagonalGaussian(wheel)
    expected = [
        gear.log_probs_and_entropy(outputs[:, :3], decisions[:, 0].long(), None),
        steer.log_probs_and_entropy(outputs[:, 3:], decisions[:, 1:], None),
    ]
    log_probs, entropy = joint.log_probs_and_entropy(outputs, decisions, None)
    torch.testing.assert_close(log_probs, expected[0][0] + expected[1][0])
    torch.testing.assert_close(entropy, expected[0][1] + expected[1][1])
    played = joint.played(decisions)
    assert played["gear"].tolist() == decisions[:, 0].tolist()
    torch.testing.assert_close(played["steer"], torch.tanh(decisions[:, 1:]))


def test_choices_only_are_kept_as_integers_and_counted_from_their_starts() -> None:
    joint = JointDistribution(DISCRETE)
    decisions = drawn(joint, normal(50, joint.num_outputs))
    assert decisions.dtype == torch.int64
    assert decisions.shape == (50, 5)
    first, second = joint.actions(decisions)
    assert first.shape == (50,)
    assert second.shape == (50, 2, 2)
    assert second[:, 1, 0].max() == 3
    mixed = JointDistribution(MIXED)
    gears = mixed.actions(drawn(mixed, normal(50, mixed.num_outputs)))["gear"]
    assert set(gears.tolist()) == {2, 3, 4}


def test_a_mask_of_parts_forbids_in_each_of_them() -> None:
    space = spaces.Dict(gear=spaces.Discrete(3), steer=spaces.Box(-1, 1, (2,)), turn=spaces.MultiDiscrete([2, 2]))
    joint = distribution_for(space)
    assert joint.sizes == [3, 2, 2]
    masks = torch.tensor([[False, True, False, True, True, False, True]]).expand(200, -1)
    outputs = normal(200, joint.num_outputs)
    decisions = drawn(joint, outputs, masks)
    assert decisions[:, 0].tolist() == [1] * 200
    assert decisions[:, 4].tolist() == [1] * 200
    assert set(decisions[:, 3].tolist()) == {0, 1}
    mode = joint.mode(outputs, masks)
    assert mode[:, 0].tolist() == [1] * 200
    log_probs, _ = joint.log_probs_and_entropy(outputs, decisions, masks)
    assert log_probs.isfinite().all()
    with pytest.raises(ValueError, match=r"shape \[200, 6\], expected \[200, 7\].* in \['gear', 'steer', 'turn'\]"):
        drawn(joint, outputs, masks[:, 1:])


def test_a_fix_for_a_part_that_is_not_supported() -> None:
    space = spaces.Dict(gear=spaces.Discrete(3), say=spaces.Text(2))
    with pytest.raises(TypeError, match=r"part 'say' is not supported.*TransformAction"):
        GymPolicy(ObeyEnv(space))
    spoken = spaces.Dict(gear=spaces.Discrete(3), word=spaces.Discrete(2))

    def say(action: Any) -> Any:
        return {"gear": action["gear"], "say": ("go", "no")[action["word"]]}

    environment = gymnasium.wrappers.TransformAction(ObeyEnv(space), say, spoken)
    assert evaluate(GymPolicy(environment), environment, 1).lengths.tolist() == [3]


def test_standard_deviations_of_the_network() -> None:
    wide = spaces.Box(-np.inf, np.inf, (2,))
    distribution = DiagonalGaussian(wide, 0.5, state_dependent_std=True)
    assert distribution.num_outputs == 4
    assert list(distribution.parameters()) == []
    outputs = torch.tensor([[1.0, -1.0, 0.0, math.log(4)]])
    expected = torch.distributions.Normal(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0]))
    decisions = torch.tensor([[0.3, 0.7]])
    log_probs, entropy = distribution.log_probs_and_entropy(outputs, decisions, None)
    torch.testing.assert_close(log_probs, expected.log_prob(decisions).sum(-1))
    torch.testing.assert_close(entropy, expected.entropy().sum().unsqueeze(0))
    many = drawn(distribution, outputs.expand(20_000, -1))
    torch.testing.assert_close(many.std(0), torch.tensor([0.5, 2.0]), rtol=0.03, atol=0)
    assert distribution.mode(outputs, None).tolist() == [[1, -1]]


@pytest.mark.parametrize("squashed", [True, False])
def test_state_dependent_exploration_is_the_gaussian_of_its_formula(*, squashed: bool) -> None:
    bound = 1.0 if squashed else np.inf
    distribution = StateDependentExploration(spaces.Box(-bound, bound, (2,)), num_latents=3)
    with torch.no_grad():
        distribution.log_std.copy_(torch.tensor([[0.0, -1.0], [-2.0, 0.5], [0.3, 0.1]]))
    outputs = torch.tensor([[0.2, -0.4, 1.0, -2.0, 0.5]])
    variances = [
        1 * math.exp(0) ** 2 + 4 * math.exp(-2) ** 2 + 0.25 * math.exp(0.3) ** 2,
        1 * math.exp(-1) ** 2 + 4 * math.exp(0.5) ** 2 + 0.25 * math.exp(0.1) ** 2,
    ]
    expected = torch.distributions.Normal(torch.tensor([0.2, -0.4]), torch.tensor(variances).sqrt())
    decisions = torch.tensor([[0.3, 0.7]])
    log_probs, _ = distribution.log_probs_and_entropy(outputs, decisions, None)
    slope = (1 - torch.tanh(decisions).square()).log().sum() if squashed else 0.0
    torch.testing.assert_close(log_probs, expected.log_prob(decisions).sum(-1) - slope, rtol=1e-4, atol=1e-5)
    noise = distribution.noise((1, 20_000), torch.Generator().manual_seed(2))[0]
    many = distribution.sample(outputs.expand(20_000, -1), noise, None)
    torch.testing.assert_close(many.std(0), torch.tensor(variances).sqrt(), rtol=0.03, atol=0)


def test_noise_stays_the_same_for_some_steps() -> None:
    distribution = StateDependentExploration(spaces.Box(-1, 1, (1,)), num_latents=2, resample_every=3)
    noise = distribution.noise((8, 5), torch.Generator().manual_seed(0))
    assert noise.shape == (8, 5, 2)
    assert noise[0].equal(noise[2])
    assert noise[3].equal(noise[5])
    assert not noise[2].equal(noise[3])
    assert not noise[0, 0].equal(noise[0, 1])


def test_observations_that_are_asked_for_together_have_noise_of_their_own() -> None:
    policy = GymPolicy(ObeyEnv(spaces.Box(-1, 1, (1,))), distribution=StateDependentExploration)
    actions = policy.predict(np.ones((8, 2), np.float32), deterministic=False)
    assert len(set(actions.ravel().tolist())) == 8


CHOICES: list[Any] = [
    partial(DiagonalGaussian, initial_std=0.3),
    partial(DiagonalGaussian, state_dependent_std=True),
    partial(StateDependentExploration, resample_every=2),
]


@pytest.mark.parametrize("distribution", CHOICES)
@pytest.mark.parametrize("critic", [True, False])
def test_distributions_of_choice_train(distribution: Any, *, critic: bool) -> None:
    fragments = FragmentSampler(obeying(spaces.Box(-1, 1, (2,))), num_steps=6)
    policy: Any = (GymActorCritic if critic else GymPolicy)(fragments, distribution=distribution)
    check_policy_model(policy, fragments.states, num_actions_per_state=1, discrete=False, num_samples=300)
    before = {name: parameter.clone() for name, parameter in policy.get_parameters().items()}
    if critic:
        PPOTrainer(PPOConfig(entropy_coefficient=0.1), policy, EnvironmentReward()).step(fragments.states)
        assert [name for name, parameter in policy.get_parameters().items() if parameter.equal(before[name])] == []


def test_exploration_over_a_trunk_takes_its_units_for_latents() -> None:
    distribution = partial(StateDependentExploration, num_latents=7)
    trunk = nn.Sequential(nn.Linear(2, 7), nn.Tanh())
    policy = GymActorCritic(ObeyEnv(spaces.Box(-1, 1, (2,))), trunk=trunk, distribution=distribution)
    features = torch.rand(3, 2)
    torch.testing.assert_close(policy.actor(policy.units(features))[:, 2:], trunk(features))
