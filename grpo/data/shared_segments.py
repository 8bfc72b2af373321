"""Segments whose entries lie on several processes."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.data.segments import Segments
from grpo.distributed.world import ALONE, World


class SharedSegments:
    """K segments, of whose entries this process has a part, in which some segments may have none.

    Sums are over the entries of all processes, so that all of them must ask for the same ones.

    Args:
        own: the entries of this process, [D], cut into those segments that have any here.
        places: which of the K segments these are, int64; None for all of them, in order.
        count: K.
        world: the processes.

    Example:
        >>> SharedSegments.whole(3).sum(torch.tensor([1.0, 2.0, 3.0]))
        tensor([6.])
    """

    def __init__(self, own: Segments, places: Tensor | None = None, count: int | None = None, world: World = ALONE):
        self._own = own
        self._places = places
        self.count = len(own) if count is None else count
        self._world = world

    @classmethod
    def whole(cls, total: int, device: torch.device | str | None = None, world: World = ALONE) -> SharedSegments:
        """All entries as one segment, ``total`` of them here."""
        if total > 0:
            return cls(Segments(1, total, device), None, 1, world)
        return cls(Segments(0, 1, device), torch.zeros(0, dtype=torch.int64, device=device), 1, world)

    @classmethod
    def of_lengths(cls, lengths: list[int], device: torch.device, world: World = ALONE) -> SharedSegments:
        """Segments with so many entries each here, 0 or more."""
        if all(lengths):
            return cls(Segments.of_lengths(lengths, device), None, len(lengths), world)
        places = torch.tensor([place for place, length in enumerate(lengths) if length], dtype=torch.int64)
        own = Segments.of_lengths([length for length in lengths if length], device)
        return cls(own, places.to(device), len(lengths), world)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of the entries of each segment, [D] -> [K]."""
        return self._world.sum(self._spread(self._own.sum(values), 0))

    def sums(self, *columns: Tensor) -> tuple[Tensor, ...]:
        """The same for several tensors of one dtype at once."""
        return self._world.sum(torch.stack([self._spread(self._own.sum(column), 0) for column in columns])).unbind(0)

    def maximum(self, values: Tensor) -> Tensor:
        """The largest entry of each segment, [D] -> [K]; minus infinity where there is none."""
        return self._world.maximum(self._spread(self._own.maximum(values), -torch.inf))

    def expand(self, values: Tensor) -> Tensor:
        """Each segment's value at all of its entries here, [K] -> [D]."""
        return self._own.expand(values if self._places is None else values[self._places])

    def _spread(self, values: Tensor, otherwise: float) -> Tensor:
        """Values of the segments that have entries here at their places among all."""
        if self._places is None:
            return values
        everywhere = torch.full((self.count,), otherwise, dtype=values.dtype, device=values.device)
        return everywhere.index_copy(0, self._places, values)
