"""Advantages in standard deviations from their mean."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return (offsets - mean) / positive_or_one(std)


def positive_or_one(std: Tensor) -> Tensor:
    """The standard deviation where there is spread, 1 where there is none: what is centred is exactly 0 then."""
    return torch.where(std > 0, std, 1.0)
