"""Convolutional networks that turn frames into units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import gymnasium
import torch
from torch import Tensor, nn

from grpo_adapters.gym.networks.perceptrons import HIDDEN_GAIN, linear
from grpo_adapters.gym.observations.frames import FrameLayout

SMALLEST_FOR_NATURE = 36


class _ImageNetwork(nn.Module, ABC):
    """Convolutions and a linear layer behind them: from frames to units."""

    def __init__(self, space: gymnasium.Space[Any], channels: Literal["first", "last"] | None) -> None:
        super().__init__()
        self.layout = FrameLayout.of(space, channels)

    def _add_last_layer(self, num_units: int, generator: torch.Generator) -> None:
        """To be called when the convolutions are there, whose units it takes."""
        with torch.no_grad():
            units = self._features(torch.zeros(1, *self.layout.sizes))
        self.last = linear(units.numel(), num_units, HIDDEN_GAIN, generator)

    def forward(self, frames: Tensor) -> Tensor:
        """Units [n, U] for frames [n, ...] as the space has them, from 0 to 1."""
        return torch.relu(self.last(self._features(self.layout.arranged(frames))))

    def _features(self, frames: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, F]."""
        return self._convolved(frames.contiguous(memory_format=torch.channels_last)).flatten(1)

    @abstractmethod
    def _convolved(self, units: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, other channels, fewer rows, fewer columns]."""


class NatureCNN(_ImageNetwork):
    """Three convolutions and a linear layer, which suit frames of 84 by 84: from frames to 512 units.

    Channels may be first or last, and frames may be stacked; what the space does not tell is asked for. Weights are
    orthogonal, and lie channels-last in memory, where convolutions are faster on a CPU.

    Args:
        space: of the frames, at least 36 by 36.
        channels: where the channels are; None to find out.
        num_units: U.
        generator: of the weights; None for one seeded with 0.

    Raises:
        TypeError: if the space holds no frames.
        ValueError: if it does not tell where the channels are, or frames are too small.

    Example:
        >>> from gymnasium import spaces
        >>> network = NatureCNN(spaces.Box(0, 255, (4, 84, 84), "uint8"))
        >>> network(torch.rand(2, 4, 84, 84)).shape
        torch.Size([2, 512])

    References:
        Mnih et al. 2015, Human-level control through deep reinforcement learning.
    """

    def __init__(
        self,
        space: gymnasium.Space[Any],
        *,
        channels: Literal["first", "last"] | None = None,
        num_units: int = 512,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(space, channels)
        num_channels, *size = self.layout.sizes
        if min(size) < SMALLEST_FOR_NATURE:
            raise ValueError(
                f"space has frames of {size[0]} by {size[1]}, expected at least 36 by 36 for NatureCNN: take "
                f"ImpalaCNN(space), or enlarge them by gymnasium.wrappers.ResizeObservation"
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.convolutions = nn.ModuleList(
            [
                convolution(num_channels, 32, 8, stride=4, generator=generator),
                convolution(32, 64, 4, stride=2, generator=generator),
                convolution(64, 64, 3, stride=1, generator=generator),
            ]
        )
        self._add_last_layer(num_units, generator)

    def _convolved(self, units: Tensor) -> Tensor:
        for layer in self.convolutions:
            units = layer(units).relu_()
        return units


class ImpalaCNN(_ImageNetwork):
    """A residual network of fifteen convolutions, for frames of any size: from frames to 256 units.

    It costs several times what :class:`NatureCNN` does, and mostly needs fewer frames to learn from. Frames and weights
    are treated as there.

    Args:
        space: of the frames.
        channels: where the channels are; None to find out.
        depths: channels of each of the three stages, each of which halves the frames.
        num_units: U.
        generator: of the weights; None for one seeded with 0.

    Raises:
        TypeError: if the space holds no frames.
        ValueError: if it does not tell where the channels are.

    Example:
        >>> from gymnasium import spaces
        >>> network = ImpalaCNN(spaces.Box(0, 255, (7, 7, 3), "uint8"))
        >>> network(torch.rand(2, 7, 7, 3)).shape
        torch.Size([2, 256])

    References:
        Espeholt et al. 2018, arXiv:1802.01561, figure 3.
    """

    def __init__(
        self,
        space: gymnasium.Space[Any],
        *,
        channels: Literal["first", "last"] | None = None,
        depths: Sequence[int] = (16, 32, 32),
        num_units: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(space, channels)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        sizes = pairwise([self.layout.sizes[0], *depths])
        self.stages = nn.Sequential(*(_Stage(*own, generator) for own in sizes))
        self._add_last_layer(num_units, generator)

    def _convolved(self, units: Tensor) -> Tensor:
        return torch.relu(self.stages(units))


class _Stage(nn.Module):
    """A convolution, a maximum over neighbours that halves the frames, and two residual blocks."""

    def __init__(self, num_inputs: int, num_outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = convolution(num_inputs, num_outputs, 3, padding=1, generator=generator)
        self.halved = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(convolution(num_outputs, num_outputs, 3, padding=1, generator=generator) for _ in range(2))
            for _ in range(2)
        )

    def forward(self, units: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, other channels, h/2, w/2], rounded up."""
        units = self.halved(self.first(units))
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            first, second = block
            units = units + second(first(torch.relu(units)).relu_())
        return units


def convolution(
    num_inputs: int, num_outputs: int, size: int, *, generator: torch.Generator, stride: int = 1, padding: int = 0
) -> nn.Conv2d:
    """A convolution with orthogonal weights of gain √2, channels-last in memory, and zero biases."""
    layer = nn.Conv2d(num_inputs, num_outputs, size, stride=stride, padding=padding)
    nn.init.orthogonal_(layer.weight, HIDDEN_GAIN, generator=generator)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


def image_network(
    space: gymnasium.Space[Any], generator: torch.Generator, num_units: int | None = None
) -> NatureCNN | ImpalaCNN:
    """What suits the size of the frames, a :class:`NatureCNN` from 36 by 36."""
    is_large = min(FrameLayout.of(space).sizes[1:]) >= SMALLEST_FOR_NATURE
    asked: Any = {} if num_units is None else {"num_units": num_units}
    return (NatureCNN if is_large else ImpalaCNN)(space, generator=generator, **asked)
