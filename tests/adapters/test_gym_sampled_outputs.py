"""What networks computed while sampling is used again, and only where it is what they would compute now."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, GymPolicy, Trajectory, TrajectoryBatch
from grpo_adapters.gym.policies.gym_policy import STEPS_ASKED_AGAIN

NUM_STEPS, NUM_ENVS = 30, 3


class Counting(nn.Module):
    """A trunk that counts the observations that it is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 8)
        self.activation: nn.Module = nn.Tanh()
        self.dropout = nn.Dropout(0.0)
        self.scale = 1.0
        self.seen = 0

    def forward(self, features: Tensor) -> Tensor:
        self.seen += len(features)
        units: Tensor = self.dropout(self.activation(self.scale * self.layer(features)))
        return units


def sampler() -> FragmentSampler:
    mode = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    return FragmentSampler(gymnasium.make_vec("CartPole-v1", NUM_ENVS, "sync", mode), NUM_STEPS)


def played(kind: Any = GymActorCritic) -> tuple[Any, Counting, list[Trajectory], TrajectoryBatch]:
    own = sampler()
    trunk = Counting()
    policy = kind(own, trunk=trunk)
    trajectories = [group[0] for group in own.sample(policy, own.states, 1)]
    trunk.seen = 0
    return policy, trunk, trajectories, policy.encode_actions(own.states, trajectories)


def computed_again(policy: Any, trajectories: list[Trajectory]) -> TrajectoryBatch:
    batch: TrajectoryBatch = policy.encode_actions([0], [replace(own, sampled=None) for own in trajectories])
    return batch


@pytest.mark.parametrize("kind", [GymPolicy, GymActorCritic])
def test_steps_are_not_computed_twice(kind: Any) -> None:
    policy, trunk, trajectories, batch = played(kind)
    with torch.no_grad():
        evaluation = policy.evaluate_actions(batch)
        assert trunk.seen == STEPS_ASKED_AGAIN
        expected = policy.evaluate_actions(computed_again(policy, trajectories))
    assert trunk.seen == STEPS_ASKED_AGAIN + len(batch.decisions)
    torch.testing.assert_close(evaluation.log_probs, expected.log_probs)
    torch.testing.assert_close(evaluation.entropy, expected.entropy)
    rows = torch.tensor([7, 3])
    with torch.no_grad():
        part = policy.evaluate_actions(batch.select(rows))
    assert part.log_probs.equal(evaluation.log_probs[rows])
    with torch.no_grad():
        assert policy.evaluate_actions(batch.select(rows[:0])).log_probs.tolist() == []


def test_values_are_computed_for_what_came_last_only() -> None:
    policy, trunk, trajectories, batch = played()
    estimates = policy.estimate_values(batch)
    assert trunk.seen == len(batch.episodes) + STEPS_ASKED_AGAIN
    expected = policy.estimate_values(computed_again(policy, trajectories))
    torch.testing.assert_close(estimates.values, expected.values)
    torch.testing.assert_close(estimates.next_values, expected.next_values)


def test_with_gradients_all_is_computed_again() -> None:
    policy, trunk, _, batch = played()
    policy.evaluate_actions(batch).log_probs.sum().backward()
    assert trunk.seen == len(batch.decisions)
    assert trunk.layer.weight.grad is not None


@pytest.mark.parametrize("name", ["trunk.layer.weight", "actor.layers.0.bias", "normalization.mean"])
def test_other_weights_compute_again(name: str) -> None:
    own = sampler()
    policy = GymActorCritic(own, trunk=Counting(), normalize_observations=True)
    trajectories = [group[0] for group in own.sample(policy, own.states, 1)]
    batch = policy.encode_actions(own.states, trajectories)
    policy.state_dict()[name].data.view(-1)[0] += 0.5  # which no counter of changes sees
    with torch.no_grad():
        seen = policy.evaluate_actions(batch).log_probs
        assert seen.equal(policy.evaluate_actions(computed_again(policy, trajectories)).log_probs)


def scaled(policy: Any) -> None:
    policy.trunk.scale = 0.5


def activated_otherwise(policy: Any) -> None:
    policy.trunk.activation = nn.ReLU()


def hooked(policy: Any) -> None:
    policy.trunk.register_forward_hook(lambda module, inputs, units: 2 * units)


def in_evaluation_mode(policy: Any) -> None:
    policy.eval()


@pytest.mark.parametrize("change", [scaled, activated_otherwise, hooked, in_evaluation_mode])
@pytest.mark.parametrize("of_a_copy", [False, True])
def test_what_no_weight_tells_computes_again(change: Any, of_a_copy: bool) -> None:
    own = sampler()
    trunk = Counting()
    policy = GymActorCritic(own, trunk=trunk)
    if change is in_evaluation_mode:
        trunk.dropout.p = 0.5
    trajectories = [group[0] for group in own.sample(policy, own.states, 1)]
    policy = copy.deepcopy(policy) if of_a_copy else policy
    change(policy)
    batch, again = policy.encode_actions(own.states, trajectories), computed_again(policy, trajectories)
    with torch.no_grad():
        assert policy.evaluate_actions(batch).log_probs.equal(policy.evaluate_actions(again).log_probs)
    assert policy.estimate_values(batch).values.equal(policy.estimate_values(again).values)


def test_trajectories_of_other_weights_are_computed_again() -> None:
    policy, trunk, trajectories, _ = played()
    own = policy.sampler
    with torch.no_grad():
        trunk.layer.weight += 0.5
    later = [group[0] for group in own.sample(policy, own.states, 1)]
    assert policy.encode_actions([0], [*trajectories, *later]).sampled is None
    assert policy.encode_actions([0], later).sampled is not None


def test_what_is_cheap_is_not_kept() -> None:
    own = sampler()
    policy = GymActorCritic(own)
    assert own.sample(policy, own.states, 1)[0][0].sampled is None


def test_it_trains_as_without_up_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PPOConfig(batch_size=16, num_epochs_per_update=2, learning_rate=0.01)
    learnt = []
    for used_again in (True, False):
        if not used_again:
            monkeypatch.setattr(GymPolicy, "_sampled", lambda self, batch: None)
        own = sampler()
        policy = GymActorCritic(own, trunk=Counting())
        trainer: PPOTrainer[Any, Any] = PPOTrainer(config, policy, EnvironmentReward())
        trainer.step(own.states)
        learnt.append(torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]))
    torch.testing.assert_close(learnt[0], learnt[1], rtol=1e-3, atol=1e-4)
