"""Random generators from seeds."""

from __future__ import annotations

import torch

from grpo.distributed.seeds import derived_seed


def seeded_generator(purpose: str, seed: int) -> torch.Generator:
    """A random generator for one purpose, whose draws have nothing to do with those of others of the same seed.

    Two generators given the same number draw the same stream: rewards would depend on what a policy samples.

    Args:
        purpose: any text; each makes other draws of the same seed.
        seed: any integer.

    Returns:
        A generator on the CPU.

    Example:
        >>> arms, rewards = seeded_generator("arms", 0), seeded_generator("rewards", 0)
        >>> torch.equal(torch.rand(2, generator=arms), torch.rand(2, generator=rewards))
        False
    """
    return torch.Generator().manual_seed(derived_seed(purpose, seed))
