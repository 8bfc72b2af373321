"""How a reward compares with the others of its group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from grpo.advantages.normalization import centered_with_std, positive_or_one
from grpo.data._protocols import shown
from grpo.data.experience import Experience, GroupedRewards
from grpo.data.needs import Needs
from grpo.data.shared_segments import SharedSegments


def group_centered_advantages(rewards: GroupedRewards) -> Tensor:
    """Reward minus the mean of its group, R - mean(R).

    Args:
        rewards: of N samples in groups.

    Returns:
        [N]; the sum over a group is 0, and a group of equal rewards gets exactly 0.

    References:
        Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.

    Example:
        >>> import torch
        >>> from grpo import Segments
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
        >>> import torch
        >>> from grpo import Segments
        >>> group_normalized_advantages(GroupedRewards(torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0]), Segments(2, 3)))
        tensor([-1.,  0.,  1.,  0.,  0.,  0.])
    """
    return rewards.centered / rewards.groups.expand(positive_or_one(rewards.std))


def batch_normalized_advantages(rewards: GroupedRewards) -> Tensor:
    """Reward minus the mean of its group, in standard deviations of all rewards, (R - mean_group(R)) / std_batch(R).

    Args:
        rewards: of N samples in groups.

    Returns:
        [N]; std is the unbiased one over all N rewards, and a group of equal rewards gets exactly 0.

    References:
        Liu et al. 2025 (Lite PPO), arXiv:2508.08221.

    Example:
        >>> import torch
        >>> from grpo import Segments
        >>> batch_normalized_advantages(GroupedRewards(torch.tensor([0.0, 4.0, 2.0, 2.0]), Segments(2, 2)))
        tensor([-1.2247,  1.2247,  0.0000,  0.0000])
    """
    everything = SharedSegments.whole(len(rewards.values), rewards.values.device, rewards.world)
    return rewards.centered / positive_or_one(centered_with_std(rewards.values, everything)[1])


def leave_one_out_advantages(rewards: GroupedRewards) -> Tensor:
    """Reward minus the mean of the others in its group.

    Args:
        rewards: of N samples in groups.

    Returns:
        [N]; the sum over a group is 0, and a group of equal rewards, or of one, gets exactly 0.

    References:
        Ahmadian et al. 2024 (RLOO), arXiv:2402.14740.

    Example:
        >>> import torch
        >>> from grpo import Segments
        >>> leave_one_out_advantages(GroupedRewards(torch.tensor([1.0, 2.0, 6.0]), Segments(1, 3)))
        tensor([-3.0000, -1.5000,  4.5000])
    """
    # R - (sum - R)/(n - 1) = (R - mean) n/(n - 1)
    sizes = rewards.groups.lengths.to(rewards.values.dtype)
    return rewards.centered * rewards.groups.expand(sizes / (sizes - 1).clamp(min=1))


@dataclass(frozen=True)
class GroupRelative:
    """Credits a sample for how its reward compares with the other rewards of its group, as GRPO and RLOO do.

    Attributes:
        function: from rewards in groups to advantages [N]: one of the functions above, or your own.

    Raises:
        TypeError: if it is no function.

    Example:
        >>> import torch
        >>> from grpo import PairBatch, Segments
        >>> states, arms, rewards = ["s", "s", "s"], [0, 1, 2], torch.tensor([1.0, 2.0, 6.0])
        >>> experience = Experience(states, arms, PairBatch(states, arms, Segments(3, 1)), Segments(1, 3), rewards)
        >>> GroupRelative(leave_one_out_advantages)(experience)
        tensor([-3.0000, -1.5000,  4.5000])
        >>> GroupRelative(lambda rewards: rewards.centered.sign())(experience)
        tensor([-1., -1.,  1.])
    """

    function: Callable[[GroupedRewards], Tensor] = group_normalized_advantages

    def __post_init__(self) -> None:
        """Refuse what cannot be called, and estimators, which take more than rewards."""
        if hasattr(self.function, "needs") or hasattr(self.function, "estimate"):
            raise TypeError(
                f"function is {self.function!r}, which estimates advantages by itself: pass it as advantage_estimator, "
                f"without GroupRelative around it"
            )
        if not callable(self.function) or isinstance(self.function, type):
            raise TypeError(
                f"function is {self.function!r}, expected one from grpo.GroupedRewards to advantages [N], such as "
                f"grpo.group_centered_advantages"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(function={shown(self.function)!r})"

    @property
    def needs(self) -> Needs:
        """Groups to compare within; a function of your own may compare all of them, whatever process they are of."""
        compares_all = None if self.function not in GROUP_FUNCTIONS else False
        return Needs(critic=False, reference=False, adapts=False, group_size=2, all_samples=compares_all)

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the samples, [N]."""
        return self.function(experience.sample_rewards)


GROUP_FUNCTIONS: tuple[object, ...] = (
    group_centered_advantages,
    group_normalized_advantages,
    batch_normalized_advantages,
    leave_one_out_advantages,
)
