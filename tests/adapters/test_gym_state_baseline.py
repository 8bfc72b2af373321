"""What states were worth, by ridge regression over a rollout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grpo import Experience, MonteCarlo, PairBatch, Segments, World
from grpo_adapters.cli import main
from grpo_adapters.cli.gym_training import build, parse_options, resolve
from grpo_adapters.gym import (
    Trajectory,
    TrajectoryBatch,
    state_baseline,
)


def rollout(observations: Tensor, lengths: list[int]) -> Experience:
    steps = len(observations)
    trajectory = Trajectory(
        observations=observations,
        decisions=torch.zeros(steps, dtype=torch.long),
        rewards=torch.zeros(steps),
        episode_lengths=tuple(lengths),
        next_observations=torch.zeros(len(lengths), *observations.shape[1:]),
        terminated=torch.ones(len(lengths), dtype=torch.bool),
    )
    batch = TrajectoryBatch.of([trajectory], torch.device("cpu"), torch.float32)
    return Experience([0], [trajectory], batch, Segments(1, 1), torch.zeros(steps))


def test_like_states_have_the_mean_of_their_returns_whatever_their_episode_and_time() -> None:
    """Two places, 1000 visits each, of which half returned 1 and half 3 at the first, 5 and 9 at the second."""
    places = torch.tensor([[-1.0, 0.5], [2.0, 0.0]]).repeat(1000, 1)
    returns = torch.tensor([1.0, 5.0, 3.0, 9.0]).repeat(500)
    baseline = state_baseline(rollout(places, [500, 1500]), returns)
    torch.testing.assert_close(baseline, torch.tensor([2.0, 7.0]).repeat(1000), rtol=0, atol=0.01)


def test_it_follows_a_function_of_the_state() -> None:
    states = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    worth = torch.sin(2 * states[:, 0]) + states[:, 1] * states[:, 2]
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    baseline = state_baseline(rollout(states, [4000]), worth + noise)
    assert (baseline - worth).square().mean() < 0.15
    assert worth.var() > 1


def test_scale_and_offset_of_the_observations_do_not_matter() -> None:
    states = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    returns = states[:, 0] * 3
    moved = states * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 5.0, -1.0])
    expected = state_baseline(rollout(states, [500]), returns)
    torch.testing.assert_close(state_baseline(rollout(moved, [500]), returns), expected, rtol=0, atol=1e-2)


def test_a_single_step_and_observations_that_never_change_are_no_trouble() -> None:
    assert state_baseline(rollout(torch.zeros(1, 2), [1]), torch.tensor([4.0])).isfinite().all()
    same = state_baseline(rollout(torch.ones(1000, 2), [1000]), torch.tensor([1.0, 3.0]).repeat(500))
    torch.testing.assert_close(same, torch.full((1000,), 2.0), rtol=0, atol=0.01)


def test_samples_without_observations_are_refused() -> None:
    batch = PairBatch([0, 0], [0, 0], Segments.of_lengths([1, 1]))
    experience = Experience([0, 0], [0, 0], batch, Segments(1, 2), torch.zeros(2))
    with pytest.raises(TypeError, match=r"state_baseline was given a PairBatch with observations of type NoneType"):
        state_baseline(experience, torch.zeros(2))


SMALL = ["--num-envs", "2", "--num-groups", "1", "--group-size", "2", "--until-steps", "1"]


@pytest.mark.parametrize(("credit", "expected"), [("time", "group_time_baseline"), ("state", "state_baseline")])
def test_the_command_credits_as_it_is_told(credit: str, expected: str) -> None:
    words = ["CartPole-v1", "--algorithm", "grpo", *SMALL, "--credit", credit, "--discount", "0.9"]
    trainer: Any = build(resolve(parse_options(words)), [], World()).trainer
    assert isinstance(trainer.advantage_estimator, MonteCarlo)
    assert trainer.advantage_estimator.discount == 0.9
    assert trainer.advantage_estimator.baseline.__name__ == expected  # type: ignore[union-attr]


def test_a_discount_of_whole_episodes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gym", "CartPole-v1", "--algorithm", "grpo", *SMALL, "--discount", "0.9"]) == 2
    assert "the credit of whole episodes has none: say --credit time, or state" in capsys.readouterr().err
