"""What states are worth, without a critic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from grpo import Experience, Needs, ValueEstimates, World, generalized_advantages, rewards_to_go

NUM_FEATURES = 256
RIDGE = 1.0
LARGEST = 5.0  # standard deviations
STEEPNESS = 2.0


@dataclass(frozen=True, kw_only=True)
class RegressedAdvantage:
    """Generalised advantages over values that are regressed on the states of the rollout, in place of a critic.

    In long episodes :func:`grpo.group_time_baseline` compares a step with the same step of samples that are elsewhere
    by then. Here steps are compared that are in like states, whatever episode and time they are of: groups of steps as
    GiGPO has them, with likeness in place of equality. What was returned from each step on is regressed, by ridge
    regression, on a constant and 256 functions of the observation: ``tanh(w · x + b)`` with random ``w`` and ``b`` that
    are always the same, of observations x that are standardised over the rollout and clipped to ±5. The values that
    this gives, also after an episode that was cut short, take the place of V in
    :func:`grpo.generalized_advantages`. Nothing is trained, and nothing is kept from rollout to rollout.

    A decision's own return is one of those that are regressed, which shortens its expected gradient a little, the
    less the more episodes a rollout has.

    Attributes:
        discount: γ in [0, 1].
        gae_lambda: λ in [0, 1]: 0 trusts the regression, 1 the rewards.

    Raises:
        ValueError: if one of them is not in [0, 1].
        TypeError: when called, if the batch holds no observations in one tensor.

    References:
        Feng et al. 2025, arXiv:2505.10978. Duan et al. 2016, arXiv:1604.06778, whose baseline is linear in given
        functions of the observation. Schulman et al. 2016, arXiv:1506.02438.

    Example:
        >>> import gymnasium
        >>> from grpo import GRPOConfig, GRPOTrainer
        >>> from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, GymPolicy
        >>> policy = GymPolicy(EpisodeSampler(lambda: gymnasium.make("CartPole-v1"), num_envs=4))
        >>> credit = RegressedAdvantage(discount=0.99, gae_lambda=0.95)
        >>> trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, EnvironmentReward(), advantage_estimator=credit)
        >>> trainer.step([0])["num_samples"]
        4.0
    """

    discount: float
    gae_lambda: float
    needs: ClassVar[Needs] = Needs(critic=False, reference=False, all_samples=False)

    def __post_init__(self) -> None:
        for name in ("discount", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the decisions, [D]."""
        rewards, episodes = experience.decision_rewards, experience.episodes
        returns = rewards_to_go(rewards, episodes, discount=self.discount)
        return generalized_advantages(
            rewards,
            regressed_values(experience, returns),
            episodes,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
        )


def regressed_values(experience: Experience, returns: Tensor) -> ValueEstimates:
    """What was returned from states like those of the D decisions, and like those after them, [D] each."""
    batch: Any = experience.batch
    world = experience.world
    observations, after = (getattr(batch, name, None) for name in ("observations", "next_observations"))
    if len(returns) and not (isinstance(observations, Tensor) and isinstance(after, Tensor)):
        raise TypeError(
            f"RegressedAdvantage was given a {type(batch).__name__} with observations of type "
            f"{type(observations).__name__}, expected trajectories with observations in one tensor: use "
            f"MonteCarlo(baseline=group_time_baseline)"
        )
    own = _rows(observations, returns, world)
    mean, deviation = _moments(own, world)
    features = _features(own, mean, deviation)
    products = world.sum(features.T @ torch.column_stack((features, returns.double())))
    ridge = RIDGE * torch.eye(len(products), dtype=products.dtype, device=products.device)
    weights = torch.linalg.solve(products[:, :-1] + ridge, products[:, -1])
    values = (features @ weights).to(returns.dtype)
    next_values = values.roll(-1)
    if isinstance(after, Tensor):
        ends = (_features(after.flatten(1).double(), mean, deviation) @ weights).to(returns.dtype)
        next_values[experience.episodes.last] = ends.masked_fill(batch.terminated, 0.0)
    return ValueEstimates(values, next_values)


def _rows(observations: Tensor | None, returns: Tensor, world: World) -> Tensor:
    """Observations, [D, size]; of a process without any as wide as those of the others."""
    own = observations.flatten(1).double() if isinstance(observations, Tensor) else None
    size = max(world.gather(0 if own is None else own.shape[1]))
    return returns.new_zeros(0, size).double() if own is None else own


def _moments(observations: Tensor, world: World) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the observations of all processes, [size] each."""
    count = torch.full_like(observations[:1].sum(0), len(observations))
    total = world.sum(torch.stack((observations.sum(0), count)))
    mean = total[0] / total[1]
    return mean, (world.sum((observations - mean).square().sum(0)) / total[1]).sqrt()


def _features(observations: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Random functions of the standardised observations, and a constant, [D, 257]."""
    inputs = ((observations - mean) / (deviation + 1e-6)).clamp(-LARGEST, LARGEST)
    generator = torch.Generator().manual_seed(0)
    size = inputs.shape[1]
    weights = torch.randn(size, NUM_FEATURES, generator=generator, dtype=inputs.dtype) * STEEPNESS / math.sqrt(size)
    offsets = torch.randn(NUM_FEATURES, generator=generator, dtype=inputs.dtype)
    units = torch.tanh(inputs @ weights.to(inputs.device) + offsets.to(inputs.device))
    return torch.cat((units, torch.ones_like(inputs[:, :1])), 1)
