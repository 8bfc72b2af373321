"""The policy of a run's latest checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from grpo import CheckpointError, Checkpoints, GRPOConfig, GRPOTrainer, Run, Until, load_latest_weights
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit


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


def test_a_folder_without_checkpoints_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint: choose the folder of a run"):
        load_latest_weights(SoftmaxPolicy(3), tmp_path)
