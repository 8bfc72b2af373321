"""Advantages in standard deviations from their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.data.shared_segments import SharedSegments
from grpo.distributed.world import ALONE, World


def normalized_advantages(advantages: Tensor, *, world: World = ALONE) -> Tensor:
    """Advantages to mean 0 and standard deviation 1, (A - mean(A)) / std(A).

    Args:
        advantages: [D].
        world: the processes over whose advantages mean and standard deviation are taken.

    Returns:
        [D]; std is the unbiased one, and equal advantages, or a single one, get exactly 0.

    Example:
        >>> normalized_advantages(torch.tensor([1.0, 2.0, 3.0]))
        tensor([-1.,  0.,  1.])
    """
    return normalized_within(advantages, SharedSegments.whole(len(advantages), advantages.device, world))


def normalized_within(values: Tensor, segments: SharedSegments) -> Tensor:
    """The same in each of some segments, whose entries may lie on several processes, [D] -> [D]."""
    centered, std = centered_with_std(values, segments)
    return centered / segments.expand(positive_or_one(std))


def centered_with_std(values: Tensor, segments: SharedSegments) -> tuple[Tensor, Tensor]:
    """Values minus the mean of their segment, [D], and the unbiased standard deviation of each segment, [K]."""
    # Counting from the largest makes equal values cancel exactly, and large offsets harmless.
    offsets = values - segments.expand(segments.maximum(values))
    counts, sums = segments.sums(torch.ones_like(offsets, dtype=torch.float64), offsets.double())
    centered = offsets - segments.expand((sums / counts).to(values.dtype))
    squares = segments.sum(centered.double().square())
    return centered, (squares / (counts - 1).clamp(min=1)).sqrt().to(values.dtype)


def positive_or_one(std: Tensor) -> Tensor:
    """The standard deviation where there is spread, 1 where there is none: what is centred is exactly 0 then."""
    return torch.where(std > 0, std, 1.0)
