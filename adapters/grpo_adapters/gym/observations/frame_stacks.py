"""Stacks of frames, of which each frame is stored once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FrameStacks:
    """n stacks of K frames, most of them shared by stacks of consecutive steps.

    Rows are selected as they are of a tensor, and share the frames.

    Attributes:
        frames: each once, in any order, [F, ...].
        numbers: which of them each stack consists of, int64 [n, K].

    Example:
        >>> stacks = FrameStacks(torch.tensor([[10], [11], [12]]), torch.tensor([[0, 1], [1, 2]]))
        >>> stacks[1:].gathered().tolist()
        [[[11], [12]]]
    """

    frames: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: slice | Tensor) -> FrameStacks:
        return FrameStacks(self.frames, self.numbers[which])

    def to(self, device: torch.device | str) -> FrameStacks:
        """The same on a device."""
        return FrameStacks(self.frames.to(device), self.numbers.to(device))

    def split(self, lengths: int | list[int]) -> tuple[FrameStacks, ...]:
        """Consecutive rows, so many in each, as :meth:`torch.Tensor.split` has it."""
        return tuple(FrameStacks(self.frames, numbers) for numbers in self.numbers.split(lengths))

    def gathered(self) -> Tensor:
        """All stacks as one tensor, [n, K, ...], in memory of its own."""
        return self.frames[self.numbers]


def gathered(features: Any) -> Any:
    """Features as networks take them: stacks as one tensor, anything else as it is."""
    return features.gathered() if isinstance(features, FrameStacks) else features


def joined_stacks(parts: list[FrameStacks]) -> FrameStacks:
    """Stacks end to end; frames that all of them share are not copied."""
    if all(part.frames is parts[0].frames for part in parts):
        return FrameStacks(parts[0].frames, torch.cat([part.numbers for part in parts]))
    num_frames = 0
    numbers = []
    for part in parts:
        numbers.append(part.numbers + num_frames)
        num_frames += len(part.frames)
    return FrameStacks(torch.cat([part.frames for part in parts]), torch.cat(numbers))
