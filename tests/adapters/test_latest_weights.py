"""The policy of a run's latest checkpoint."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import gymnasium
import pytest
import torch

from grpo import (
    BestWeights,
    CheckpointError,
    Checkpoints,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    Run,
    Until,
    load_best_weights,
    load_latest_weights,
)
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
from grpo_adapters.gym import DiagonalGaussian, EnvironmentReward, FragmentSampler, GymActorCritic


def trained(folder: Path) -> SoftmaxPolicy:
    policy = SoftmaxPolicy(3)
    trainer = GRPOTrainer(GRPOConfig(learning_rate=0.1), policy, StationaryBandit([0.0, 0.5, 1.0]))
    Run(trainer, ["the only state"], folder=folder, checkpoints=Checkpoints(every=2))(Until(steps=5))
    return policy


def parameters(policy: SoftmaxPolicy) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.get_parameters().values()])


def test_they_are_those_of_the_last_step_and_the_folder_stays_as_it_is(tmp_path: Path) -> None:
    policy, other = trained(tmp_path), SoftmaxPolicy(3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert load_latest_weights(other, tmp_path) == 5
    assert parameters(other).equal(parameters(policy))
    assert not parameters(other).equal(parameters(SoftmaxPolicy(3)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_checkpoint_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "checkpoints" / "step-000000005" / "state.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="is not whole"):
        assert load_latest_weights(SoftmaxPolicy(3), tmp_path) == 4


def test_weights_of_another_policy_are_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    other = SoftmaxPolicy(4)
    before = parameters(other)
    with pytest.raises(ValueError, match="policy"):
        load_latest_weights(other, tmp_path)
    assert parameters(other).equal(before)


def test_a_policy_that_was_made_otherwise_is_told_of_and_takes_them(tmp_path: Path) -> None:
    clipped = partial(DiagonalGaussian, squash=False)
    sampler = FragmentSampler(gymnasium.make_vec("Pendulum-v1", num_envs=2), num_steps=8)
    policy = GymActorCritic(sampler, distribution=clipped)
    trainer = PPOTrainer(PPOConfig(), policy, EnvironmentReward())
    callbacks = [BestWeights("reward")]
    Run(trainer, sampler.states, folder=tmp_path, checkpoints=Checkpoints(every=1), callbacks=callbacks)(Until(steps=1))
    environment = gymnasium.make("Pendulum-v1")
    for load in (load_latest_weights, load_best_weights):
        other = GymActorCritic(environment, distribution=clipped)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load(other, tmp_path)
        squashed = GymActorCritic(environment)
        message = (
            r"made otherwise, so that it may decide otherwise with them: policy.distribution.squash \('False' before"
        )
        with pytest.warns(UserWarning, match=message) as caught:
            load(squashed, tmp_path)
        assert [warning.filename for warning in caught] == [__file__]
        assert all(map(torch.equal, squashed.parameters(), policy.parameters()))


def test_a_folder_without_checkpoints_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint: choose the folder of a run"):
        load_latest_weights(SoftmaxPolicy(3), tmp_path)
