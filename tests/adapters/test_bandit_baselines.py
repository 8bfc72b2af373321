"""The classical strategies do what their papers say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from grpo_adapters.bandit import GaussianRewards, random_walk_means, regret, switching_means
from grpo_adapters.bandit.baselines import (
    UCB1,
    DiscountedUCB,
    EpsilonGreedy,
    SlidingWindowUCB,
    Strategy,
    ThompsonSampling,
    play,
)

STRATEGIES: dict[str, Callable[[int, int], Strategy]] = {
    "epsilon-greedy": EpsilonGreedy,
    "UCB1": UCB1,
    "discounted UCB": lambda bandits, arms: DiscountedUCB(bandits, arms, discount=0.999),
    "sliding-window UCB": lambda bandits, arms: SlidingWindowUCB(bandits, arms, window=1000),
    "Thompson": ThompsonSampling,
}
every_strategy = pytest.mark.parametrize("build", STRATEGIES.values(), ids=STRATEGIES)


@every_strategy
def test_a_clearly_best_arm_is_found(build: Callable[[int, int], Strategy]) -> None:
    paths = torch.tensor([0.0, 3.0, 0.5]).expand(8, 400, 3)
    arms, rewards = play(build(8, 3), paths, GaussianRewards(1.0))
    assert arms.shape == rewards.shape == (8, 400)
    assert (arms[:, 200:] == 1).float().mean() > 0.85


@every_strategy
def test_every_arm_is_tried(build: Callable[[int, int], Strategy]) -> None:
    arms, _ = play(build(4, 6), torch.zeros(4, 200, 6), GaussianRewards(1.0))
    assert all(set(row.tolist()) == set(range(6)) for row in arms)


@every_strategy
def test_bandits_are_independent_of_their_neighbours(build: Callable[[int, int], Strategy]) -> None:
    """What one bandit gives changes nothing in another."""
    paths = torch.zeros(2, 100, 3)
    paths[0, :, 1] = 2.0
    others = paths.clone()
    others[1, :, 2] = 5.0
    left, _ = play(build(2, 3), paths, GaussianRewards(0.5))
    right, _ = play(build(2, 3), others, GaussianRewards(0.5))
    assert torch.equal(left[0], right[0])


def test_ucb1_by_hand() -> None:
    strategy = UCB1(1, 2)
    for arm, reward in ((0, 1.0), (1, 0.0), (0, 1.0), (0, 0.0)):
        strategy.update(torch.tensor([arm]), torch.tensor([reward]))
    # 2/3 + √(2 ln 4 / 3) = 1.628; 0 + √(2 ln 4 / 1) = 1.665
    assert strategy.select().item() == 1
    strategy.update(torch.tensor([1]), torch.tensor([0.0]))
    # 2/3 + √(2 ln 5 / 3) = 1.703; √(2 ln 5 / 2) = 1.269
    assert strategy.select().item() == 0


def test_a_window_forgets() -> None:
    strategy = SlidingWindowUCB(1, 2, window=2)
    for arm in (0, 1, 1):
        strategy.update(torch.tensor([arm]), torch.tensor([1.0]))
    assert strategy.counts.tolist() == [[0.0, 2.0]]
    assert strategy.select().item() == 0  # not pulled within the window


def test_a_discount_fades() -> None:
    strategy = DiscountedUCB(1, 2, discount=0.5)
    for arm in (0, 1, 1):
        strategy.update(torch.tensor([arm]), torch.tensor([1.0]))
    assert strategy.counts.tolist() == [[0.25, 1.5]]


def test_forgetting_helps_where_means_change() -> None:
    drift = torch.stack([random_walk_means(12_000, 10, seed=seed) for seed in range(8)])
    switches = torch.stack([switching_means(6000, 5, switch_every=1000, seed=seed) for seed in range(8)])
    for paths in (drift, switches):
        shape, noise = (len(paths), paths.shape[2]), GaussianRewards(1.0)
        total = [
            regret(paths, play(strategy, paths, noise)[0]).sum(1).mean().item()
            for strategy in (UCB1(*shape), DiscountedUCB(*shape, discount=0.999), SlidingWindowUCB(*shape, window=1000))
        ]
        assert max(total[1:]) < 0.7 * total[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EpsilonGreedy(1, 2, epsilon=5), "epsilon is 5"),
        (lambda: DiscountedUCB(1, 2, discount=1.5), "discount is 1.5"),
        (lambda: SlidingWindowUCB(1, 2, window=0), "window is 0"),
        (lambda: GaussianRewards(-1.0), "std=-1.0"),
    ],
)
def test_settings_out_of_range(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
