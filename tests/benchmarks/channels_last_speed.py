"""A forward and a backward pass of the image networks, which keep channels last in memory, beside the usual order.

On one thread, on frames of 84 by 84 with four channels; times are taken in turns. The last line holds the
ratios as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from alternating import median_seconds
from grpo_adapters.gym import ImpalaCNN, NatureCNN

SPACE = spaces.Box(0, 255, (4, 84, 84), np.uint8)
NETWORKS: dict[str, tuple[Any, int]] = {"NatureCNN": (NatureCNN, 256), "ImpalaCNN": (ImpalaCNN, 128)}
ROUNDS, CALLS = 9, 1


def in_the_usual_order(network: Any) -> nn.Module:
    """The same network with channels first in memory."""
    network._features = lambda frames: network._convolved(frames.contiguous()).flatten(1)
    network.to(memory_format=torch.contiguous_format)
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network  # type: ignore[no-any-return]


def passed(network: nn.Module, frames: Tensor) -> Callable[[], list[Tensor]]:
    """A forward and a backward pass, which gives the gradients."""
    parameters = list(network.parameters())
    return lambda: list(torch.autograd.grad(network(frames).square().mean(), parameters))


def main() -> None:
    """Run and print."""
    torch.set_num_threads(1)
    ratios = {}
    for name, (make, num_frames) in NETWORKS.items():
        frames = torch.rand(num_frames, *SPACE.shape, generator=torch.Generator().manual_seed(0))
        passes = {
            "channels last": passed(make(SPACE), frames),
            "usual": passed(in_the_usual_order(make(SPACE)), frames),
        }
        for run in passes.values():
            torch.testing.assert_close(run(), passes["usual"](), rtol=1e-3, atol=1e-5)
        seconds = median_seconds(passes, rounds=ROUNDS, calls=CALLS)
        for order, own in seconds.items():
            print(f"{name:12}{num_frames:5} frames  {order:16}{own * 1e3:8.1f} ms", flush=True)
        ratios[name] = round(seconds["channels last"] / seconds["usual"], 2)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
