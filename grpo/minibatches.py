"""Which rows an optimiser step sees, and what each decision weighs in its loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from grpo.config import LossAveraging, TrainerConfig
from grpo.experience import ActionBatch
from grpo.segments import Segments


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The part of an optimiser step that goes through the policy at once.

    Attributes:
        rows: the rows, int64 of shape [K]; None for all of them.
        positions: where their decisions stand among all D, int64; None for all of them.
        samples: their decisions cut into samples, or into rows where rows of a sample may be apart.
    """

    rows: Tensor | None
    positions: Tensor | None
    samples: Segments

    @overload
    def take(self, values: Tensor) -> Tensor: ...

    @overload
    def take(self, values: Tensor | None) -> Tensor | None: ...

    def take(self, values: Tensor | None) -> Tensor | None:
        """This part of values of all decisions, [D]; None of None."""
        return values if values is None or self.positions is None else values[self.positions]


def iterate_minibatches(
    batch: ActionBatch, config: TrainerConfig, *, whole_samples: bool, generator: torch.Generator
) -> Iterator[list[MicroBatch]]:
    """The micro-batches of each optimiser step, over all epochs; every epoch visits each row once.

    Rows are shuffled where an epoch takes more than one optimiser step. With ``whole_samples`` it is samples that are
    shuffled, and a sample goes into the minibatch that its first row falls into, so that sizes are kept nearly.
    """
    units = rows_per_sample(batch) if whole_samples else Segments(len(batch.rows), 1, batch.rows.device)
    for _ in range(config.num_epochs_per_update):
        if config.batch_size is None or config.batch_size >= units.total:
            yield _micro_batches(batch, units, None, config.micro_batch_size, whole_samples)
            continue
        order = torch.randperm(len(units), generator=generator).to(units.device)
        for chosen in _pack(units, order, config.batch_size):
            yield _micro_batches(batch, units, chosen, config.micro_batch_size, whole_samples)


def rows_per_sample(batch: ActionBatch) -> Segments:
    """The R rows cut into N samples."""
    if len(batch.rows) == len(batch.samples):
        return Segments(len(batch.samples), 1, batch.samples.device)
    row_ends = batch.rows.starts + batch.rows.lengths
    sample_ends = batch.samples.starts + batch.samples.lengths
    rows_until = torch.searchsorted(row_ends, sample_ends) + 1
    return Segments.of_lengths(rows_until.diff(prepend=rows_until.new_zeros(1)))


def _micro_batches(
    batch: ActionBatch, units: Segments, chosen: Tensor | None, num_rows: int | None, whole_samples: bool
) -> list[MicroBatch]:
    if chosen is None:
        if num_rows is None or num_rows >= units.total:
            return [MicroBatch(None, None, batch.samples if whole_samples else batch.rows)]
        chosen = torch.arange(len(units), device=units.device)
    parts = [chosen] if num_rows is None else _pack(units, chosen, num_rows)
    cut = batch.samples if whole_samples else batch.rows
    return [
        MicroBatch(rows, batch.rows.positions(rows), cut.select(part))
        for part in parts
        for rows in [units.positions(part)]
    ]


def _pack(units: Segments, chosen: Tensor, num_rows: int) -> list[Tensor]:
    """Cut the chosen units into consecutive packs of about ``num_rows`` rows."""
    if units.uniform_length == 1:
        return list(chosen.split(num_rows))
    packs = units.select(chosen).starts.div(num_rows, rounding_mode="floor")
    return list(chosen.split(packs.unique_consecutive(return_counts=True)[1].tolist()))


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the decisions in the loss of an optimiser step, numerator / (sum of the denominators over the step).

    Averaging is nothing but this choice of weights. Since the denominator is summed over the whole optimiser step
    before any part of it goes backward, no split into micro-batches can change the gradient.

    Attributes:
        numerator: [D].
        denominator: [D].
    """

    numerator: Tensor
    denominator: Tensor

    @classmethod
    def of(cls, averaging: LossAveraging, samples: Segments, dtype: torch.dtype) -> LossWeights:
        """The weights of one way of averaging; see :class:`grpo.TrainerConfig`.

        Example:
            >>> weights = LossWeights.of("per_sample", Segments.of_lengths([1, 3]), torch.float32)
            >>> weights.numerator / weights.denominator.sum()
            tensor([0.5000, 0.1667, 0.1667, 0.1667])
        """
        if averaging == "per_decision":
            ones = torch.ones(samples.total, dtype=dtype, device=samples.device)
            return cls(ones, ones)
        if samples.uniform_length is not None:
            share = torch.full((samples.total,), 1 / samples.uniform_length, dtype=dtype, device=samples.device)
        else:
            share = samples.expand(samples.lengths.to(dtype).reciprocal())
        if averaging == "per_sample":
            return cls(share, share)
        return cls(torch.full_like(share, 1 / averaging), share)
