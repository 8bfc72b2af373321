"""What states were worth, without a critic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from grpo import Experience, Needs, World

NUM_FEATURES = 256
RIDGE = 1.0
LARGEST = 5.0  # standard deviations
STEEPNESS = 2.0


@Needs(critic=False, reference=False, all_samples=False)
def state_baseline(experience: Experience, returns: Tensor) -> Tensor:
    """What was returned from states like these in this rollout, [D], by ridge regression. For :class:`grpo.MonteCarlo`.

    In long episodes :func:`grpo.group_time_baseline` compares a step with the same step of samples that are elsewhere
    by then. Here steps are compared that are in like states, whatever episode and time they are of: groups of steps as
    GiGPO has them, with likeness in place of equality. The returns are regressed on 256 functions of the observation
    and a constant: ``tanh(w · x + b)`` with random ``w`` and ``b`` that are always the same, of observations x that
    are standardised over the rollout and clipped to ±5. Nothing is kept from rollout to rollout.

    A decision's own return is one of those that are regressed, which shortens its expected gradient a little, the
    less the more episodes a rollout has.

    Args:
        experience: trajectories of a :class:`GymPolicy`.
        returns: from each decision on, [D].

    Raises:
        TypeError: if the batch holds no observations in one tensor.

    References:
        Feng et al. 2025, arXiv:2505.10978. Duan et al. 2016, arXiv:1604.06778, whose baseline is linear in given
        functions of the observation.

    Example:
        >>> import gymnasium
        >>> from grpo import GRPOConfig, GRPOTrainer, MonteCarlo
        >>> from grpo_adapters.gym import EnvironmentReward, EpisodeSampler, GymPolicy
        >>> policy = GymPolicy(EpisodeSampler(lambda: gymnasium.make("CartPole-v1"), num_envs=4))
        >>> credit = MonteCarlo(discount=0.99, baseline=state_baseline)
        >>> trainer = GRPOTrainer(GRPOConfig(group_size=4), policy, EnvironmentReward(), advantage_estimator=credit)
        >>> trainer.step([0])["num_samples"]
        4.0
    """
    observations = getattr(experience.batch, "observations", None)
    if len(returns) and not isinstance(observations, Tensor):
        raise TypeError(
            f"state_baseline was given a {type(experience.batch).__name__} with observations of type "
            f"{type(observations).__name__}, expected one tensor: use group_time_baseline"
        )
    world = experience.world
    own = observations.flatten(1).double() if isinstance(observations, Tensor) else returns.new_zeros(0, 0).double()
    size = max(world.gather(own.shape[1]))
    features = _features(_standardized(own.reshape(len(returns), size), world))
    products = world.sum(features.T @ torch.column_stack((features, returns.double())))
    ridge = RIDGE * torch.eye(len(products), dtype=products.dtype, device=products.device)
    weights = torch.linalg.solve(products[:, :-1] + ridge, products[:, -1])
    return (features @ weights).to(returns.dtype)


def _standardized(observations: Tensor, world: World) -> Tensor:
    """Observations with mean 0 and standard deviation 1 over those of all processes, [D, size]."""
    count = torch.full_like(observations[:1].sum(0), len(observations))
    total = world.sum(torch.stack((observations.sum(0), count)))
    centered = observations - total[0] / total[1]
    deviation = (world.sum(centered.square().sum(0)) / total[1]).sqrt()
    return (centered / (deviation + 1e-6)).clamp(-LARGEST, LARGEST)


def _features(inputs: Tensor) -> Tensor:
    """Random functions of the observations, and a constant, [D, 257]."""
    generator = torch.Generator().manual_seed(0)
    size = inputs.shape[1]
    weights = torch.randn(size, NUM_FEATURES, generator=generator, dtype=inputs.dtype) * STEEPNESS / math.sqrt(size)
    offsets = torch.randn(NUM_FEATURES, generator=generator, dtype=inputs.dtype)
    units = torch.tanh(inputs @ weights.to(inputs.device) + offsets.to(inputs.device))
    return torch.cat((units, torch.ones_like(inputs[:, :1])), 1)
