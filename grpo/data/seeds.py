"""Random generators from seeds."""

from __future__ import annotations

import torch

from grpo.distributed.seeds import derived_seed


def seeded_generator(purpose: str, seed: int) -> torch.Generator:
    """A random generator for one purpose, whose draws have nothing to do with those of others of the same seed.

    Two generators given the same number draw the same stream: rewards would depend on what a policy samples.
    """
    return torch.Generator().manual_seed(derived_seed(purpose, seed))
