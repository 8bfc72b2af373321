"""Where the channels of frames are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor


@dataclass(frozen=True)
class FrameLayout:
    """Where the channels of frames are.

    Attributes:
        shape: of one observation, as its space has it.
        order: the dimensions of n observations, [n, stack and channels, height, width] when all but the last two are
            merged.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, space: gymnasium.Space[Any], channels: Literal["first", "last"] | None = None) -> FrameLayout:
        """Find the channels: the smallest of the three dimensions, if it is the first or the last.

        Args:
            space: a Box [height, width], [channels, height, width] or [height, width, channels], or stacks of the
                latter two, [stack, ...].
            channels: where they are; None to find out.

        Raises:
            TypeError: if the space is no Box of these.
            ValueError: if the shape does not tell.
        """
        if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 4:
            raise TypeError(
                f"space is {space}, expected a Box of frames, [height, width], [channels, height, width] or "
                f"[height, width, channels], or stacks of these: give the part of the space that holds the "
                f"frames, or take a network of your own"
            )
        if channels not in (None, "first", "last"):
            raise ValueError(f"channels is {channels!r}, expected 'first' or 'last', or None to find out")
        shape = tuple(space.shape)
        if len(shape) == 2:
            return cls(shape, (0, 1, 2))
        first, middle, last = shape[-3:]
        if channels is None:
            if first < min(middle, last):
                channels = "first"
            elif last < min(first, middle):
                channels = "last"
            else:
                raise ValueError(
                    f"space has frames of shape {list(shape)}, and its shape does not tell whether channels are first "
                    f"or last: say it, NatureCNN(space, channels='last') or ImpalaCNN(space, channels='last')"
                )
        stack = tuple(range(len(shape) - 2))
        end = len(shape)
        return cls(shape, (*stack, end - 2, end - 1, end) if channels == "first" else (*stack, end, end - 2, end - 1))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels, those of all frames of a stack, height and width."""
        *_, height, width = (self.shape[dimension - 1] for dimension in self.order[1:])
        return torch.Size(self.shape).numel() // (height * width), height, width

    def arranged(self, frames: Tensor) -> Tensor:
        """[n, *shape] -> [n, channels, height, width], where possible without a copy.

        Raises:
            ValueError: if the frames have another shape.
        """
        if tuple(frames.shape[1:]) != self.shape:
            raise ValueError(
                f"frames came in shape {list(frames.shape[1:])}, expected {list(self.shape)}, as the space has them: "
                f"move the channels by np.moveaxis, or build the network for the space that frames come in"
            )
        return frames.permute(self.order).reshape(len(frames), *self.sizes)
