"""Generalised advantage estimation over a million steps, beside plain Python loops, in turns on one thread.

One loop runs over lists of floats, which is as fast as plain Python gets; the other over NumPy arrays, as one finds it
in many programs. The advantages are compared. The last line holds the ratios of the medians as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alternating import median_seconds
from grpo import Segments, ValueEstimates, generalized_advantages

NUM_STEPS, EPISODE_LENGTH = 1_000_000, 200
DISCOUNT, GAE_LAMBDA = 0.99, 0.95


def plain_loop(columns: Sequence[Any], advantages: Any) -> Any:
    """GAE from the last step to the first, into ``advantages``."""
    rewards, values, next_values, continues = columns
    following = 0.0
    for step in range(len(rewards) - 1, -1, -1):
        error = rewards[step] + DISCOUNT * next_values[step] - values[step]
        following = error + DISCOUNT * GAE_LAMBDA * continues[step] * following
        advantages[step] = following
    return advantages


def main() -> None:
    """Run and print."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, NUM_STEPS, generator=generator).unbind()
    continues = torch.ones(NUM_STEPS)
    continues[EPISODE_LENGTH - 1 :: EPISODE_LENGTH] = 0
    next_values = values.roll(-1) * continues
    columns = (rewards, values, next_values, continues)
    lists = [column.tolist() for column in columns]
    arrays = [column.numpy() for column in columns]
    estimates, episodes = ValueEstimates(values, next_values), Segments(NUM_STEPS // EPISODE_LENGTH, EPISODE_LENGTH)

    def ours() -> torch.Tensor:
        return generalized_advantages(rewards, estimates, episodes, discount=DISCOUNT, gae_lambda=GAE_LAMBDA)

    expected = torch.tensor(plain_loop(lists, [0.0] * NUM_STEPS))
    torch.testing.assert_close(ours(), expected, atol=1e-4, rtol=1e-4)
    seconds = median_seconds(
        {
            "ours": ours,
            "lists of floats": lambda: plain_loop(lists, [0.0] * NUM_STEPS),
            "NumPy arrays": lambda: plain_loop(arrays, np.zeros(NUM_STEPS, dtype=np.float32)),
        },
        rounds=7,
        calls=1,
    )
    for name, median in seconds.items():
        print(f"{name:16s} {median * 1e3:8.1f} ms")
    print(json.dumps({f"ours / {name}": round(seconds["ours"] / own, 4) for name, own in list(seconds.items())[1:]}))


if __name__ == "__main__":
    main()
