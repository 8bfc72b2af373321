"""What states were worth, by ridge regression over a rollout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grpo import Experience, GroupRelative, MonteCarlo, PairBatch, Segments, World, group_time_baseline
from grpo_adapters.cli import main
from grpo_adapters.cli.gym_options import parse_options
from grpo_adapters.cli.gym_training import build, resolve
from grpo_adapters.gym import (
    RegressedAdvantage,
    Trajectory,
    TrajectoryBatch,
)
from grpo_adapters.gym.regressed_values import regressed_values


def rollout(
    observations: Tensor,
    lengths: list[int],
    *,
    rewards: Tensor | None = None,
    after: Tensor | None = None,
    terminated: bool = False,
) -> Experience:
    steps = len(observations)
    rewards = torch.zeros(steps) if rewards is None else rewards
    trajectory = Trajectory(
        observations=observations,
        decisions=torch.zeros(steps, dtype=torch.long),
        rewards=rewards,
        episode_lengths=tuple(lengths),
        next_observations=torch.zeros(len(lengths), *observations.shape[1:]) if after is None else after,
        terminated=torch.full((len(lengths),), terminated),
    )
    batch = TrajectoryBatch.of([trajectory], torch.device("cpu"), torch.float32)
    return Experience([0], [trajectory], batch, Segments(1, 1), rewards)


def values(experience: Experience, returns: Tensor) -> Tensor:
    return regressed_values(experience, returns).values


def test_like_states_have_the_mean_of_their_returns_whatever_their_episode_and_time() -> None:
    """Two places, 1000 visits each, of which half returned 1 and half 3 at the first, 5 and 9 at the second."""
    places = torch.tensor([[-1.0, 0.5], [2.0, 0.0]]).repeat(1000, 1)
    returns = torch.tensor([1.0, 5.0, 3.0, 9.0]).repeat(500)
    baseline = values(rollout(places, [500, 1500]), returns)
    torch.testing.assert_close(baseline, torch.tensor([2.0, 7.0]).repeat(1000), rtol=0, atol=0.01)


def test_it_follows_a_function_of_the_state() -> None:
    states = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    worth = torch.sin(2 * states[:, 0]) + states[:, 1] * states[:, 2]
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    baseline = values(rollout(states, [4000]), worth + noise)
    assert (baseline - worth).square().mean() < 0.15
    assert worth.var() > 1


def test_scale_and_offset_of_the_observations_do_not_matter() -> None:
    states = torch.randn(500, 3, generator=torch.Generator().manual_seed(1))
    returns = states[:, 0] * 3
    moved = states * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 5.0, -1.0])
    expected = values(rollout(states, [500]), returns)
    torch.testing.assert_close(values(rollout(moved, [500]), returns), expected, rtol=0, atol=1e-2)


def test_a_single_step_and_observations_that_never_change_are_no_trouble() -> None:
    assert values(rollout(torch.zeros(1, 2), [1]), torch.tensor([4.0])).isfinite().all()
    same = values(rollout(torch.ones(1000, 2), [1000]), torch.tensor([1.0, 3.0]).repeat(500))
    torch.testing.assert_close(same, torch.full((1000,), 2.0), rtol=0, atol=0.01)


def test_samples_without_observations_are_refused() -> None:
    batch = PairBatch([0, 0], [0, 0], Segments.of_lengths([1, 1]))
    experience = Experience([0, 0], [0, 0], batch, Segments(1, 2), torch.zeros(2))
    with pytest.raises(TypeError, match=r"RegressedAdvantage was given a PairBatch with observations of type NoneType"):
        values(experience, torch.zeros(2))


SMALL = ["--num-envs", "2", "--num-groups", "1", "--group-size", "2", "--until-steps", "1"]


def trained(*words: str) -> Any:
    trainer: Any = build(
        resolve(parse_options(["CartPole-v1", "--algorithm", "grpo", *SMALL, *words])), [], World()
    ).trainer
    return trainer.advantage_estimator


def test_the_command_credits_as_it_is_told() -> None:
    by_state = trained("--credit", "state", "--discount", "0.9", "--gae-lambda", "0.8")
    assert by_state == RegressedAdvantage(discount=0.9, gae_lambda=0.8)
    assert trained("--credit", "time", "--discount", "0.9") == MonteCarlo(discount=0.9, baseline=group_time_baseline)
    assert isinstance(trained(), GroupRelative)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--discount", "0.9"], "the credit of whole episodes has none: say --credit time, or state"),
        (["--credit", "time", "--gae-lambda", "0.9"], "which only the credit state has: say --credit state"),
    ],
)
def test_a_setting_that_a_credit_does_not_have_is_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "gym", "CartPole-v1", "--algorithm", "grpo", *SMALL, *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("discount", "gae_lambda"), [(1.5, 0.9), (0.9, -0.1)])
def test_factors_that_are_none_are_refused(discount: float, gae_lambda: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        RegressedAdvantage(discount=discount, gae_lambda=gae_lambda)


def test_advantages_are_generalised_over_the_values() -> None:
    """Two places in turn, and a reward of 1 in the first: with γ = 0 their values are 1 and 0, as expected of them."""
    places = torch.tensor([[-1.0], [1.0]]).repeat(500, 1)
    rewards = torch.tensor([1.0, 0.0]).repeat(500)
    experience = rollout(places, [1000], rewards=rewards)
    advantages = RegressedAdvantage(discount=0.0, gae_lambda=0.5)(experience)
    torch.testing.assert_close(advantages, torch.zeros(1000), rtol=0, atol=0.01)
    undiscounted = RegressedAdvantage(discount=1.0, gae_lambda=0.0)(experience)
    worth = regressed_values(experience, torch.arange(1000, 0, -1).div(2).floor())
    expected = rewards + worth.next_values - worth.values
    torch.testing.assert_close(undiscounted, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("terminated", [False, True])
def test_after_an_episode_comes_what_its_last_observation_is_worth_or_nothing(terminated: bool) -> None:
    places = torch.tensor([[-1.0], [1.0]]).repeat(500, 1)
    returns = torch.tensor([2.0, 5.0]).repeat(500)
    experience = rollout(places, [1000], after=torch.tensor([[-1.0]]), terminated=terminated)
    worth = regressed_values(experience, returns)
    assert worth.next_values[-1].item() == pytest.approx(0.0 if terminated else 2.0, abs=0.02)
    torch.testing.assert_close(worth.next_values[:-1], worth.values[1:])
