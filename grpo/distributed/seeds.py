"""Seeds that follow from others."""

from __future__ import annotations

import random


def derived_seed(purpose: str, seed: int) -> int:
    """A seed for one purpose, which has nothing to do with those that follow from the same one for others."""
    return random.Random(f"{purpose} {seed}").getrandbits(63)  # noqa: S311
