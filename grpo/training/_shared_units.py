"""Which units an optimiser step visits, where they lie on several processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.data.segments import Segments
from grpo.distributed.world import World


@dataclass(frozen=True)
class Visit:
    """What one optimiser step visits.

    Attributes:
        own: the units of this process, int64, in the order visited; there may be none.
        num_units: those of all processes.
    """

    own: Tensor
    num_units: int


@dataclass(frozen=True)
class SharedUnits:
    """Units of one row or several, of which this process has a part: what optimiser steps are made of.

    All processes draw the same order of all units, that of one process which has them all, and visit their own.

    Attributes:
        own: the rows of this process cut into its units.
        everyone: the rows of all processes cut into units, in the order of ranks.
        first: the place of this process's first unit among all.
    """

    own: Segments
    everyone: Segments
    first: int

    @classmethod
    def of(cls, own: Segments, world: World) -> SharedUnits:
        """The units of all processes."""
        if world.is_alone:
            return cls(own, own, 0)
        uniform = own.uniform_length if len(own) > 0 else None
        told = world.gather((len(own), own.lengths.tolist() if uniform is None else uniform))
        first = sum(count for count, _ in told[: world.rank])
        lengths = [length for count, length in told if count > 0]
        if len(set(map(str, lengths))) == 1 and isinstance(lengths[0], int):
            return cls(own, Segments(sum(count for count, _ in told), lengths[0]), first)
        every = [part for count, length in told for part in ([length] * count if isinstance(length, int) else length)]
        return cls(own, Segments.of_lengths(every), first)

    def is_one_step(self, batch_size: int | None) -> bool:
        """Whether one optimiser step of about so many rows visits all units."""
        return batch_size is None or batch_size >= self.everyone.total

    def visits(self, batch_size: int | None, generator: torch.Generator) -> Iterator[Visit]:
        """The optimiser steps of an epoch of about ``batch_size`` rows each; shuffled where there are several."""
        if self.is_one_step(batch_size):
            yield Visit(torch.arange(len(self.own), device=self.own.device), len(self.everyone))
            return
        everyone = self.everyone.to(torch.device("cpu"))
        order = torch.randperm(len(everyone), generator=generator)
        for units in packed(everyone, order, batch_size):
            own = units - self.first
            if len(self.own) < len(everyone):
                own = own[(own >= 0) & (own < len(self.own))]
            yield Visit(own.to(self.own.device), len(units))


def packed(units: Segments, chosen: Tensor, num_rows: int | None) -> list[Tensor]:
    """Cut the chosen units into consecutive packs of about ``num_rows`` rows; one pack for None."""
    if len(chosen) == 0:
        return []
    if num_rows is None:
        return [chosen]
    if units.uniform_length == 1:
        return list(chosen.split(num_rows))
    packs = units.select(chosen).starts.div(num_rows, rounding_mode="floor")
    return list(chosen.split(packs.unique_consecutive(return_counts=True)[1].tolist()))
