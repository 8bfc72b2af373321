"""Bandits as reward models.

They are stationary, contextual or dynamic, with Bernoulli or Gaussian rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import Protocol

from grpo import seeded_generator
from grpo_adapters.bandit.checks import check_state


class RewardDistribution(Protocol):
    """Draws rewards around given means."""

    def sample(self, means: Tensor, generator: torch.Generator) -> Tensor:
        """One reward for each mean, of the same shape."""
        ...


@dataclass(frozen=True)
class BernoulliRewards:
    """1 with probability ``mean``, else 0; means lie in [0, 1].

    Example:
        >>> generator = seeded_generator("rewards", 0)
        >>> BernoulliRewards().sample(torch.tensor([0.0, 1.0, 1.0]), generator)
        tensor([0., 1., 1.])
        >>> BernoulliRewards().sample(torch.full((10_000,), 0.3), generator).mean().round(decimals=1)
        tensor(0.3000)
    """

    def sample(self, means: Tensor, generator: torch.Generator) -> Tensor:
        """One reward for each mean."""
        if means.numel() > 0 and not 0 <= means.min() <= means.max() <= 1:
            raise ValueError(
                f"means lie in [{means.min():.3g}, {means.max():.3g}], expected [0, 1] for Bernoulli rewards: take "
                f"their sigmoid(), or use GaussianRewards(...)"
            )
        return torch.bernoulli(means, generator=generator)


@dataclass(frozen=True)
class GaussianRewards:
    """Normal with the given means.

    Attributes:
        std: the standard deviation, at least 0.

    Example:
        >>> bandit = StationaryBandit([-3.0, 5.0], GaussianRewards(std=2.0))
        >>> rewards = bandit.compute_rewards(["any state"] * 10_000, [1] * 10_000)
        >>> rewards.mean().round(), rewards.std().round()
        (tensor(5.), tensor(2.))
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"GaussianRewards has std={self.std}, expected at least 0")

    def sample(self, means: Tensor, generator: torch.Generator) -> Tensor:
        """One reward for each mean."""
        return means + self.std * torch.randn(means.shape, generator=generator, device=means.device)


class _Bandit:
    """What all bandits share: a distribution, a seeded generator, and nothing to train."""

    def __init__(self, rewards: RewardDistribution | None, seed: int) -> None:
        self.rewards = BernoulliRewards() if rewards is None else rewards
        self.generator = seeded_generator(type(self).__name__, seed)

    def state_dict(self) -> dict[str, Any]:
        """What changes from pull to pull, copied."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this bandit, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another bandit; nothing has changed then.
        """
        check_state(self.state_dict(), state_dict, self)
        self.generator.set_state(state_dict["generator"].cpu())

    def train(self) -> Self:
        """Nothing changes."""
        return self

    def eval(self) -> Self:
        """Nothing changes."""
        return self

    def to(self, device: Any) -> Self:
        """Nothing moves: rewards are drawn on the CPU and handed over on the device of the actions."""
        return self

    def _pull(self, means: Tensor, actions: Tensor | Sequence[int]) -> Tensor:
        """Rewards of N pulls, [N], from the means of the arms at each, [N, K], or at all of them, [1, K]."""
        arms = torch.as_tensor(actions)
        if arms.ndim != 1 or arms.is_floating_point():
            raise ValueError(
                f"actions of a bandit are arms, integers of shape [N], got {arms.dtype} of shape {list(arms.shape)}"
            )
        try:
            means_of_pulls = means.expand(len(arms), -1).gather(1, arms.cpu().unsqueeze(1)).squeeze(1)
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"arms lie in [{arms.min()}, {arms.max()}], but the bandit has arms 0 to {means.shape[1] - 1}"
            ) from error
        return self.rewards.sample(means_of_pulls, self.generator).to(arms.device)


class StationaryBandit(_Bandit):
    """K arms whose means never change; the state is ignored.

    Args:
        means: of the arms, K numbers.
        rewards: their distribution; None for Bernoulli.
        seed: of the rewards.

    Raises:
        ValueError: if the means do not fit the distribution.

    Example:
        >>> StationaryBandit([0.0, 1.0]).compute_rewards(["any", "state"], [1, 0])
        tensor([1., 0.])
    """

    def __init__(
        self, means: Tensor | Sequence[float], rewards: RewardDistribution | None = None, seed: int = 0
    ) -> None:
        super().__init__(rewards, seed)
        self.means = _checked_means(torch.as_tensor(means, dtype=torch.float32), 1, self.rewards)

    def compute_rewards(self, states: Any, actions: Tensor | Sequence[int]) -> Tensor:
        """Rewards of N pulls, [N]."""
        return self._pull(self.means.unsqueeze(0), actions)


class ContextualBandit(_Bandit):
    """K arms whose means depend on the state, the context.

    Args:
        mean_function: from contexts [N, ...] to the means of the arms, [N, K].
        rewards: their distribution; None for Bernoulli.
        seed: of the rewards.

    Example:
        >>> bandit = ContextualBandit(lambda contexts: contexts, GaussianRewards(std=0.0))
        >>> bandit.compute_rewards(torch.tensor([[0.1, 0.9], [0.7, 0.3]]), torch.tensor([1, 1]))
        tensor([0.9000, 0.3000])
    """

    def __init__(
        self, mean_function: Callable[[Tensor], Tensor], rewards: RewardDistribution | None = None, seed: int = 0
    ) -> None:
        super().__init__(rewards, seed)
        self.mean_function = mean_function

    @torch.no_grad()
    def compute_rewards(self, states: Tensor | Sequence[Tensor], actions: Tensor | Sequence[int]) -> Tensor:
        """Rewards of N pulls, one in each of the N contexts, [N]."""
        contexts = states if isinstance(states, Tensor) else torch.stack(list(states))
        means = self.mean_function(contexts)
        if means.ndim != 2 or len(means) != len(contexts):
            raise ValueError(
                f"mean_function returned shape {list(means.shape)} for {len(contexts)} contexts, expected "
                f"[{len(contexts)}, arms]"
            )
        return self._pull(means.cpu(), actions)


class DynamicBandit(_Bandit):
    """K arms whose means move along a path, one step a pull; the state is ignored.

    A group of actions is a run of consecutive pulls: the policy decides on all of them before it sees a reward.

    Args:
        mean_path: means of the arms at each time, [T, K]; see :func:`random_walk_means` and its neighbours.
        rewards: their distribution; None for Bernoulli.
        seed: of the rewards.

    Attributes:
        time: pulls so far.

    Raises:
        ValueError: if the means do not fit the distribution, or the path has an end and is pulled beyond it.

    Example:
        >>> bandit = DynamicBandit(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> bandit.compute_rewards(["now", "then"], [0, 0])
        tensor([1., 0.])
        >>> bandit.regret()
        tensor([0., 1.])
    """

    def __init__(self, mean_path: Tensor, rewards: RewardDistribution | None = None, seed: int = 0) -> None:
        super().__init__(rewards, seed)
        self.mean_path = _checked_means(mean_path, 2, self.rewards)
        self.time = 0
        self._arms = torch.zeros(len(mean_path), dtype=torch.int64)

    def compute_rewards(self, states: Any, actions: Tensor | Sequence[int]) -> Tensor:
        """Rewards of the next N pulls, in order, [N]."""
        end = self.time + len(actions)
        if end > len(self.mean_path):
            raise ValueError(
                f"the bandit's path of means ends after {len(self.mean_path)} pulls, but {len(actions)} were asked for "
                f"after {self.time}: give DynamicBandit a longer path"
            )
        rewards = self._pull(self.mean_path[self.time : end], actions)
        self._arms[self.time : end] = torch.as_tensor(actions)
        self.time = end
        return rewards

    def state_dict(self) -> dict[str, Any]:
        """What changes from pull to pull, copied: the arms pulled so far besides the generator."""
        return super().state_dict() | {"time": self.time, "arms": self._arms.clone()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this bandit, or of one constructed in the same way, returned.

        Raises:
            ValueError: if it is the state of another bandit; nothing has changed then.
        """
        super().load_state_dict(state_dict)
        self.time = int(state_dict["time"])
        self._arms.copy_(state_dict["arms"])

    def arms(self) -> Tensor:
        """The arm of each pull so far, int64 of shape [time]."""
        return self._arms[: self.time].clone()

    def regret(self) -> Tensor:
        """Dynamic regret of each pull so far, see :func:`regret`, [time]."""
        return regret(self.mean_path[: self.time], self._arms[: self.time])


def regret(mean_path: Tensor, arms: Tensor) -> Tensor:
    """Dynamic regret of each pull, max_a μ_t(a) - μ_t(a_t).

    Args:
        mean_path: μ, means of the arms at each time, [..., T, K].
        arms: a_t, int64 of shape [..., T].

    Returns:
        [..., T], at least 0.

    Example:
        >>> mean_path = torch.tensor([[0.25, 1.0], [0.5, 0.25]])  # the second arm is the better one, and then the first
        >>> regret(mean_path, torch.tensor([0, 0]))
        tensor([0.7500, 0.0000])
    """
    return mean_path.amax(-1) - mean_path.gather(-1, arms.unsqueeze(-1)).squeeze(-1)


def random_walk_means(num_steps: int, num_arms: int, *, step_std: float = 0.01, seed: int = 0) -> Tensor:
    """Means that drift: all arms start at 0 and walk at random, [T, K].

    With 10 arms and rewards of standard deviation 1 this is the non-stationary test bed of Sutton & Barto 2018,
    "Reinforcement learning: an introduction", exercise 2.5. Its sigmoid serves Bernoulli rewards.

    Args:
        num_steps: T.
        num_arms: K.
        step_std: standard deviation of a step.
        seed: of the steps.

    Returns:
        The mean of each arm in each step, [T, K].

    Example:
        >>> random_walk_means(num_steps=1000, num_arms=10).shape
        torch.Size([1000, 10])
    """
    generator = seeded_generator("random_walk_means", seed)
    return (step_std * torch.randn(num_steps, num_arms, generator=generator)).cumsum(0)


def switching_means(num_steps: int, num_arms: int, *, switch_every: int = 2000, seed: int = 0) -> Tensor:
    """Means that are all drawn anew from a standard normal distribution every so many steps, [T, K].

    Args:
        num_steps: T.
        num_arms: K.
        switch_every: steps between switches.
        seed: of the means.

    Returns:
        The mean of each arm in each step, [T, K].

    Example:
        >>> means = switching_means(num_steps=4, num_arms=3, switch_every=2)
        >>> (means[1] == means[0]).all().item(), (means[2] == means[0]).any().item()
        (True, False)
    """
    generator = seeded_generator("switching_means", seed)
    num_phases = -(-num_steps // switch_every)
    return torch.randn(num_phases, num_arms, generator=generator).repeat_interleave(switch_every, dim=0)[:num_steps]


def seasonal_means(num_steps: int, num_arms: int, *, period: int = 5000, seed: int = 0) -> Tensor:
    """Means that follow a sine of amplitude 1, each arm with a phase of its own, [T, K].

    Args:
        num_steps: T.
        num_arms: K.
        period: steps of a season.
        seed: of the phases.

    Returns:
        The mean of each arm in each step, [T, K].

    Example:
        >>> means = seasonal_means(num_steps=10, num_arms=3, period=5)
        >>> torch.allclose(means[5:], means[:5], atol=1e-5)
        True
    """
    generator = seeded_generator("seasonal_means", seed)
    phases = torch.rand(1, num_arms, generator=generator)
    return torch.sin(2 * torch.pi * (torch.arange(num_steps).unsqueeze(1) / period + phases))


def _checked_means(means: Tensor, ndim: int, rewards: RewardDistribution) -> Tensor:
    if means.ndim != ndim or not means.is_floating_point() or not means.isfinite().all():
        raise ValueError(
            f"means of a bandit have shape {list(means.shape)} and dtype {means.dtype}, expected {ndim} dimensions of "
            f"finite floating-point numbers"
        )
    if isinstance(rewards, BernoulliRewards) and not ((means >= 0) & (means <= 1)).all():
        raise ValueError(
            f"means of a bandit lie in [{means.min():.3g}, {means.max():.3g}], expected [0, 1] for Bernoulli rewards: "
            f"take their sigmoid(), or pass rewards=GaussianRewards(...)"
        )
    return means
