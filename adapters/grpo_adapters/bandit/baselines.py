"""Classical bandit strategies to compare with, each playing B independent bandits at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Protocol

from grpo import seeded_generator
from grpo_adapters.bandit.checks import check_state
from grpo_adapters.bandit.environments import RewardDistribution

__all__ = [
    "UCB1",
    "DiscountedUCB",
    "EpsilonGreedy",
    "SlidingWindowUCB",
    "Strategy",
    "ThompsonSampling",
    "play",
]


class Strategy(Protocol):
    """Chooses an arm in each of B bandits and learns from what it gives."""

    def select(self) -> Tensor:
        """The next arm in each bandit, int64 of shape [B]."""
        ...

    def update(self, arms: Tensor, rewards: Tensor) -> None:
        """Learn from the rewards of these arms, [B] each."""
        ...


def play(strategy: Strategy, mean_paths: Tensor, rewards: RewardDistribution, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Let a strategy pull one arm at a time along the paths of B dynamic bandits.

    Args:
        strategy: made for B bandits of K arms.
        mean_paths: means of the arms at each time, [B, T, K].
        rewards: their distribution.
        seed: of the rewards.

    Returns:
        Arms and rewards, [B, T] each.
    """
    generator = seeded_generator("play", seed)
    all_arms, all_rewards = [], []
    for means in mean_paths.unbind(1):
        arms = strategy.select()
        gained = rewards.sample(means.gather(1, arms.unsqueeze(1)).squeeze(1), generator)
        strategy.update(arms, gained)
        all_arms.append(arms)
        all_rewards.append(gained)
    return torch.stack(all_arms, 1), torch.stack(all_rewards, 1)


class _Averages:
    """Sums of rewards and numbers of pulls of each arm, [B, K]."""

    def __init__(self, num_bandits: int, num_arms: int) -> None:
        self.counts = torch.zeros(num_bandits, num_arms, dtype=torch.float64)
        self.sums = torch.zeros(num_bandits, num_arms, dtype=torch.float64)
        self.bandits = torch.arange(num_bandits)

    def update(self, arms: Tensor, rewards: Tensor) -> None:
        self.counts[self.bandits, arms] += 1
        self.sums[self.bandits, arms] += rewards.double()

    def state_dict(self) -> dict[str, Any]:
        """What changes from pull to pull, copied."""
        return {"counts": self.counts.clone(), "sums": self.sums.clone()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this strategy, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another strategy; nothing has changed then.
        """
        check_state(self.state_dict(), state_dict, self)
        self.counts.copy_(state_dict["counts"])
        self.sums.copy_(state_dict["sums"])

    def averages(self) -> Tensor:
        """Sample average of each arm, infinite for one that was not pulled yet, [B, K]."""
        return torch.where(self.counts > 1e-6, self.sums / self.counts, torch.inf)


class _Drawing(_Averages):
    """Averages, and a generator that draws.

    Args:
        num_bandits: B.
        num_arms: K.
        seed: of the draws.
    """

    def __init__(self, num_bandits: int, num_arms: int, seed: int) -> None:
        super().__init__(num_bandits, num_arms)
        self.generator = seeded_generator(type(self).__name__, seed)

    def state_dict(self) -> dict[str, Any]:
        """What changes from pull to pull, copied."""
        return super().state_dict() | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this strategy, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another strategy; nothing has changed then.
        """
        super().load_state_dict(state_dict)
        self.generator.set_state(state_dict["generator"].cpu())


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


class EpsilonGreedy(_Drawing):
    """The arm of the highest sample average, or with probability ε any.

    Args:
        num_bandits: B.
        num_arms: K.
        epsilon: ε, in [0, 1].
        seed: of the exploration.

    References:
        Sutton & Barto 2018, "Reinforcement learning: an introduction", section 2.4.
    """

    def __init__(self, num_bandits: int, num_arms: int, *, epsilon: float = 0.1, seed: int = 0) -> None:
        super().__init__(num_bandits, num_arms, seed)
        _require(0 <= epsilon <= 1, f"epsilon is {epsilon}, expected a number in [0, 1]")
        self.epsilon = epsilon

    def select(self) -> Tensor:
        """The next arm in each bandit."""
        averages = self.averages()
        at_random = torch.randint(averages.shape[1], (len(averages),), generator=self.generator)
        explores = torch.rand(len(averages), generator=self.generator) < self.epsilon
        return torch.where(explores, at_random, averages.argmax(1))


class UCB1(_Averages):
    """The arm of the highest average + c σ √(log t / n), where t counts all pulls and n those of the arm.

    Args:
        num_bandits: B.
        num_arms: K.
        reward_std: σ, standard deviation of the rewards.
        exploration: c.

    References:
        Auer, Cesa-Bianchi & Fischer 2002, "Finite-time analysis of the multiarmed bandit problem".
    """

    def __init__(
        self, num_bandits: int, num_arms: int, *, reward_std: float = 1.0, exploration: float = 2**0.5
    ) -> None:
        super().__init__(num_bandits, num_arms)
        self.width = exploration * reward_std

    def select(self) -> Tensor:
        """The next arm in each bandit."""
        log_time = self.counts.sum(1, keepdim=True).clamp(min=1).log()
        return (self.averages() + self.width * (log_time / self.counts).sqrt()).argmax(1)


class DiscountedUCB(UCB1):
    """UCB1 on averages that forget: every pull discounts all counts and sums by γ.

    The paper's padding, 2B√(ξ log n / N) for rewards bounded by B, is written c σ √(log n / N) here.

    Args:
        num_bandits: B.
        num_arms: K.
        discount: γ, in (0, 1).
        reward_std: σ, standard deviation of the rewards.
        exploration: c.

    References:
        Garivier & Moulines 2008, "On upper-confidence bound policies for non-stationary bandit problems",
        arXiv:0805.3415.
    """

    def __init__(
        self,
        num_bandits: int,
        num_arms: int,
        *,
        discount: float,
        reward_std: float = 1.0,
        exploration: float = 2**0.5,
    ) -> None:
        super().__init__(num_bandits, num_arms, reward_std=reward_std, exploration=exploration)
        _require(0 < discount < 1, f"discount is {discount}, expected a number in (0, 1)")
        self.discount = discount

    def update(self, arms: Tensor, rewards: Tensor) -> None:
        """Discount everything, then count these pulls."""
        self.counts *= self.discount
        self.sums *= self.discount
        super().update(arms, rewards)


class SlidingWindowUCB(UCB1):
    """UCB1 on the last τ pulls only.

    Args:
        num_bandits: B.
        num_arms: K.
        window: τ.
        reward_std: σ, standard deviation of the rewards.
        exploration: c.

    References:
        Garivier & Moulines 2008, arXiv:0805.3415.
    """

    def __init__(
        self, num_bandits: int, num_arms: int, *, window: int, reward_std: float = 1.0, exploration: float = 2**0.5
    ) -> None:
        super().__init__(num_bandits, num_arms, reward_std=reward_std, exploration=exploration)
        self.past: deque[tuple[Tensor, Tensor]] = deque()
        _require(window >= num_arms, f"window is {window}, expected at least one pull for each of {num_arms} arms")
        self.window = window

    def update(self, arms: Tensor, rewards: Tensor) -> None:
        """Count these pulls and forget those that leave the window."""
        super().update(arms, rewards)
        self.past.append((arms.clone(), rewards.clone()))
        if len(self.past) > self.window:
            old_arms, old_rewards = self.past.popleft()
            self.counts[self.bandits, old_arms] -= 1
            self.sums[self.bandits, old_arms] -= old_rewards.double()

    def state_dict(self) -> dict[str, Any]:
        """What changes from pull to pull, copied: the pulls in the window besides counts and sums."""
        past = [(arms.clone(), rewards.clone()) for arms, rewards in self.past]
        return super().state_dict() | {"past": past}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this strategy, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another strategy, or of one with a longer window; nothing has changed
                then.
        """
        check_state(self.state_dict(), state_dict, self)
        num_pulls = len(state_dict["past"])
        _require(
            num_pulls <= self.window,
            f"{type(self).__name__}.load_state_dict was given a past of {num_pulls} pulls, expected at most its "
            f"window, {self.window}: pass what state_dict() of one that was constructed in the same way returned",
        )
        super().load_state_dict(state_dict)
        self.past = deque((arms.clone(), rewards.clone()) for arms, rewards in state_dict["past"])


class ThompsonSampling(_Drawing):
    """The arm of the highest draw from its posterior, N(Σr / (n + 1), σ² / (n + 1)).

    Args:
        num_bandits: B.
        num_arms: K.
        reward_std: σ, standard deviation of the rewards and of the prior around 0.
        seed: of the draws.

    References:
        Thompson 1933; Agrawal & Goyal 2013, "Further optimal regret bounds for Thompson sampling", arXiv:1209.3353.
    """

    def __init__(self, num_bandits: int, num_arms: int, *, reward_std: float = 1.0, seed: int = 0) -> None:
        super().__init__(num_bandits, num_arms, seed)
        self.reward_std = reward_std

    def select(self) -> Tensor:
        """The next arm in each bandit."""
        weights = self.counts + 1
        noise = torch.randn(weights.shape, generator=self.generator)
        return (self.sums / weights + self.reward_std * noise / weights.sqrt()).argmax(1)
