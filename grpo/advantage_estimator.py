"""Who gets the credit: pure functions from rewards to advantages, and the estimators that a trainer takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Protocol

from grpo.experience import Experience, GroupedRewards
from grpo.segments import Segments


def group_centered_advantages(rewards: GroupedRewards) -> Tensor:
    """Reward minus the mean of its group, R - mean(R).

    Args:
        rewards: of N samples in groups.

    Returns:
        [N]; the sum over a group is 0, and a group of equal rewards gets exactly 0.

    References:
        Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.

    Example:
        >>> group_centered_advantages(GroupedRewards(torch.tensor([1.0, 3.0, 5.0, 5.0]), Segments(2, 2)))
        tensor([-1.,  1.,  0.,  0.])
    """
    return rewards.centered


def group_normalized_advantages(rewards: GroupedRewards) -> Tensor:
    """Reward in standard deviations from the mean of its group, (R - mean(R)) / std(R).

    Args:
        rewards: of N samples in groups.

    Returns:
        [N]; std is the unbiased one, and a group of equal rewards gets exactly 0.

    References:
        Shao et al. 2024 (GRPO), arXiv:2402.03300.

    Example:
        >>> group_normalized_advantages(GroupedRewards(torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0]), Segments(2, 3)))
        tensor([-1.,  0.,  1.,  0.,  0.,  0.])
    """
    return rewards.centered / rewards.groups.expand(_positive_or_one(rewards.std))


def batch_normalized_advantages(rewards: GroupedRewards) -> Tensor:
    """Reward minus the mean of its group, in standard deviations of all rewards, (R - mean_group(R)) / std_batch(R).

    Args:
        rewards: of N samples in groups.

    Returns:
        [N]; std is the unbiased one over all N rewards, and a group of equal rewards gets exactly 0.

    References:
        Liu et al. 2025 (Lite PPO), arXiv:2508.08221.

    Example:
        >>> batch_normalized_advantages(GroupedRewards(torch.tensor([0.0, 4.0, 2.0, 2.0]), Segments(2, 2)))
        tensor([-1.2247,  1.2247,  0.0000,  0.0000])
    """
    all_as_one_group = GroupedRewards(rewards.values, Segments(1, rewards.groups.total, rewards.groups.device))
    return rewards.centered / _positive_or_one(all_as_one_group.std)


def leave_one_out_advantages(rewards: GroupedRewards) -> Tensor:
    """Reward minus the mean of the others in its group.

    Args:
        rewards: of N samples in groups.

    Returns:
        [N]; the sum over a group is 0, and a group of equal rewards, or of one, gets exactly 0.

    References:
        Ahmadian et al. 2024 (RLOO), arXiv:2402.14740.

    Example:
        >>> leave_one_out_advantages(GroupedRewards(torch.tensor([1.0, 2.0, 6.0]), Segments(1, 3)))
        tensor([-3.0000, -1.5000,  4.5000])
    """
    # R - (sum - R)/(n - 1) = (R - mean) n/(n - 1)
    sizes = rewards.groups.lengths.to(rewards.values.dtype)
    return rewards.centered * rewards.groups.expand(sizes / (sizes - 1).clamp(min=1))


def normalized_advantages(advantages: Tensor) -> Tensor:
    """Advantages to mean 0 and standard deviation 1, (A - mean(A)) / std(A).

    Args:
        advantages: [D].

    Returns:
        [D]; std is the unbiased one, and equal advantages, or a single one, get exactly 0.

    Example:
        >>> normalized_advantages(torch.tensor([1.0, 2.0, 3.0]))
        tensor([-1.,  0.,  1.])
    """
    # Counting from the first makes equal advantages cancel exactly.
    offsets = advantages - advantages[0]
    std, mean = torch.std_mean(offsets, correction=min(1, len(offsets) - 1))
    return (offsets - mean) / _positive_or_one(std)


GROUP_FUNCTIONS: tuple[object, ...] = (
    group_centered_advantages,
    group_normalized_advantages,
    batch_normalized_advantages,
    leave_one_out_advantages,
)


def check_takes_experience(name: str, estimator: object) -> None:
    """An estimator takes an experience; the functions above take rewards in groups."""
    if isinstance(estimator, type) or not callable(estimator):
        raise TypeError(f"{name} is {estimator!r}, expected an instance or a function that can be called")
    if any(function is estimator for function in GROUP_FUNCTIONS):
        function = getattr(estimator, "__name__", "")
        raise TypeError(f"{name} is {function}, a function of rewards in groups: pass GroupRelative({function})")


def _positive_or_one(std: Tensor) -> Tensor:
    # Without any spread all centred rewards are exactly 0, and stay so when divided by 1.
    return torch.where(std > 0, std, 1.0)


class AdvantageEstimator(Protocol):
    """Anything that can be called with an experience and returns its advantages: a plain function will do.

    It may have some attributes. ``minimum_group_size``: a trainer refuses a smaller ``group_size`` at construction;
    ``requires_values``: whether it reads ``experience.values``, so that the policy must have a critic;
    ``requires_reference`` and ``requires_old_log_probs``: whether it reads those log-probs of the experience, so that
    there must be a reference policy, and log-probs are noted even for a single update; all three are false where they
    are missing.

    It may have some methods. An objective that trains a critic needs ``value_targets(experience, advantages)``, which
    returns what the critic should have expected, [D]. ``get_metrics()`` (:class:`grpo.ReportsMetrics`) is asked after
    the call. ``adapt_to_experience(experience)`` is called once at the end of a step that succeeded: what changes in
    an estimator from step to step changes there, so that a failed step leaves it as it was.

    Example:
        >>> def reward_above_half(experience: Experience) -> torch.Tensor:
        ...     return experience.sample_rewards.values - 0.5
    """

    def __call__(self, experience: Experience, /) -> Tensor:
        """Advantages of the samples, [N], or of their decisions, [D]."""
        ...


@dataclass(frozen=True)
class GroupRelative:
    """Credits a sample for how its reward compares with the other rewards of its group, as GRPO and RLOO do.

    Attributes:
        function: from rewards in groups to advantages [N]: one of the functions above, or your own.
    """

    function: Callable[[GroupedRewards], Tensor] = group_normalized_advantages
    minimum_group_size: ClassVar[int] = 2

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the samples, [N]."""
        return self.function(experience.sample_rewards)
