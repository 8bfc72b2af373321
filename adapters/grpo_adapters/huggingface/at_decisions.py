"""What a model computes where the decisions of a batch are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from grpo_adapters.huggingface.completion_batch import CompletionBatch

Compute = Callable[..., Tensor]
"""Makes [K, L, X] of token ids [K, L], and of what else a model takes by keyword."""


class RowsComputation(Protocol):
    """How rows go through a model.

    Attributes:
        first: the place in each row whose decision follows from what is computed first, int64 of shape [R].
    """

    first: Tensor

    def __call__(self, part: CompletionBatch, rows: Tensor) -> Tensor:
        """What is computed for the K rows of a part of the batch, namely ``rows`` of it, [K, W, X]."""


@dataclass(frozen=True, slots=True)
class WholeRows:
    """Each row goes through the model as it is; its last token decides nothing, so it is left out."""

    compute: Compute
    first: Tensor

    def __call__(self, part: CompletionBatch, rows: Tensor) -> Tensor:
        """All of each row but its last token, [K, W, X]."""
        return self.compute(part.tokens[:, : int(part.lengths.max()) - 1])


def at_decisions(batch: CompletionBatch, computation: RowsComputation, buckets: Sequence[Tensor]) -> Tensor:
    """What is computed where the batch's decisions are made, [D, X].

    Args:
        batch: R rows.
        computation: how rows go through the model.
        buckets: rows that go through it together, which hold each row once.
    """
    picked = []
    for rows in buckets:
        part = batch if len(buckets) == 1 else batch.select(rows)
        computed = computation(part, rows)
        columns = part.positions - part.rows.expand(computation.first[rows])
        picked.append(computed.flatten(0, 1).index_select(0, part.rows.ids * computed.shape[1] + columns))
    if len(buckets) == 1:
        return picked[0]
    return torch.cat(picked).index_select(0, batch.rows.positions(torch.cat(list(buckets))).argsort())
