"""Bandits: their rewards have the means they should, and their paths move as they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grpo import check_reward_model
from grpo_adapters.bandit import (
    BernoulliRewards,
    ContextualBandit,
    DynamicBandit,
    GaussianRewards,
    StationaryBandit,
    random_walk_means,
    regret,
    seasonal_means,
    seeded_generator,
    switching_means,
)


@pytest.mark.parametrize(
    ("bandit", "states"),
    [
        (StationaryBandit([0.2, 0.8]), ["a", "b"]),
        (StationaryBandit([-3.0, 8.0], GaussianRewards(2.0)), ["a", "b"]),
        (ContextualBandit(lambda contexts: contexts.sigmoid()), torch.randn(2, 2)),
        (DynamicBandit(random_walk_means(100, 2), GaussianRewards()), ["a", "b"]),
    ],
)
def test_conformance(bandit: Any, states: Any) -> None:
    check_reward_model(bandit, states, [0, 1])
    check_reward_model(bandit, states, torch.tensor([1, 1]))


@pytest.mark.parametrize("rewards", [BernoulliRewards(), GaussianRewards(0.5)])
def test_rewards_have_the_means_of_their_arms(rewards: BernoulliRewards | GaussianRewards) -> None:
    bandit = StationaryBandit([0.2, 0.7], rewards)
    arms = torch.arange(2).repeat(20_000)
    drawn = bandit.compute_rewards(None, arms)
    assert drawn[arms == 0].mean().item() == pytest.approx(0.2, abs=0.015)
    assert drawn[arms == 1].mean().item() == pytest.approx(0.7, abs=0.015)
    if isinstance(rewards, BernoulliRewards):
        assert set(drawn.tolist()) == {0.0, 1.0}
    else:
        assert drawn[arms == 0].std().item() == pytest.approx(0.5, abs=0.01)


def test_the_same_seed_gives_the_same_rewards_and_another_one_others() -> None:
    def draw(seed: int) -> list[float]:
        rewards: list[float] = StationaryBandit([0.5], GaussianRewards(), seed).compute_rewards(None, [0] * 5).tolist()
        return rewards

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_generators_of_one_seed_for_two_purposes_have_nothing_in_common() -> None:
    left, right = (torch.randn(1000, generator=seeded_generator(purpose, 0)) for purpose in ("a", "b"))
    assert abs(torch.corrcoef(torch.stack((left, right)))[0, 1]) < 0.15


def test_a_dynamic_bandit_moves_one_step_a_pull() -> None:
    path = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    bandit = DynamicBandit(path)
    assert bandit.compute_rewards(["x"] * 3, [0, 0, 0]).tolist() == [0.0, 1.0, 0.0]
    assert bandit.time == 3
    assert bandit.arms().tolist() == [0, 0, 0]
    assert bandit.regret().tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="ends after 4 pulls, but 2 were asked for after 3"):
        bandit.compute_rewards(["x"] * 2, [0, 0])
    assert bandit.time == 3


def test_regret_of_many_bandits_at_once() -> None:
    paths = torch.tensor([[[0.0, 1.0], [0.5, 0.2]], [[0.3, 0.1], [0.0, 0.0]]])
    expected = torch.tensor([[1.0, 0.3], [0.0, 0.0]])
    torch.testing.assert_close(regret(paths, torch.tensor([[0, 1], [0, 0]])), expected)


def test_random_walk() -> None:
    path = random_walk_means(20_000, 10, step_std=0.01, seed=3)
    steps = path.diff(dim=0)
    assert path.shape == (20_000, 10)
    assert path[0].abs().max() < 0.1
    assert steps.std().item() == pytest.approx(0.01, rel=0.02)


def test_switches() -> None:
    path = switching_means(250, 3, switch_every=100, seed=1)
    changes = path.diff(dim=0).abs().sum(1).nonzero().flatten() + 1
    assert path.shape == (250, 3)
    assert changes.tolist() == [100, 200]


def test_seasons() -> None:
    path = seasonal_means(400, 4, period=100, seed=1)
    assert path.shape == (400, 4)
    torch.testing.assert_close(path[:100], path[300:], rtol=0, atol=1e-4)
    assert path.max().item() == pytest.approx(1.0, abs=1e-2)
    assert path.min().item() == pytest.approx(-1.0, abs=1e-2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StationaryBandit([0.5, 1.5]), r"lie in \[0.5, 1.5\], expected \[0, 1\] for Bernoulli rewards"),
        (lambda: StationaryBandit(torch.tensor([[0.5]])), "expected 1 dimensions"),
        (lambda: StationaryBandit([float("nan")]), "finite"),
        (lambda: DynamicBandit(torch.zeros(3)), "expected 2 dimensions"),
        (lambda: DynamicBandit(torch.zeros(3, 2, dtype=torch.int64)), "floating-point"),
    ],
)
def test_means_that_do_not_fit(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 2], r"arms lie in \[0, 2\], but the bandit has arms 0 to 1"),
        ([-1, 0], r"arms lie in \[-1, 0\]"),
        ([0.5, 1.0], "integers of shape"),
        ([[0], [1]], "integers of shape"),
    ],
)
def test_actions_that_are_no_arms(actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StationaryBandit([0.5, 0.5]).compute_rewards(None, actions)


def test_mean_functions_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"mean_function returned shape \[2\] for 2 contexts, expected \[2, arms\]"):
        ContextualBandit(lambda contexts: contexts.sum(1)).compute_rewards(torch.zeros(2, 3), [0, 1])
    with pytest.raises(ValueError, match=r"expected \[0, 1\] for Bernoulli rewards"):
        ContextualBandit(lambda contexts: contexts).compute_rewards(torch.full((2, 2), 3.0), [0, 1])
