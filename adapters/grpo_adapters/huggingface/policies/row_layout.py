"""How the rows of a batch go through a model."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import torch
from torch import Tensor

from grpo_adapters.huggingface.decoding.decoder import DecodingTraits
from grpo_adapters.huggingface.policies.at_decisions import Compute, PackedRows, RowProbe, WholeRows, at_decisions
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch
from grpo_adapters.huggingface.policies.length_buckets import (
    attention_cost,
    call_overhead,
    cost_of_calls,
    length_buckets,
    packed_buckets,
)
from grpo_adapters.huggingface.policies.long_rows import parts_by_length
from grpo_adapters.huggingface.policies.shared_prompts import (
    RowsAfterPrompts,
    SharedPrompts,
    computes_layers_again,
    shares_prompts,
)


class RowLayout:
    """Rows of like lengths together, after prompts that they share where that is worth it, or packed.

    Args:
        model: a causal language model, in evaluation mode.
        compute: what it makes of tokens.
        traits: how it goes on with sequences.
        packing: tokens of a sequence that rows are packed into; None for none.

    Attributes:
        shares_prompts: whether prompts may be computed once for their rows.
        packing: as given; None for a model in which packed rows are not those alone, of which it warns.

    Raises:
        ValueError: if packing is no number of tokens.
    """

    def __init__(self, model: Any, compute: Compute, traits: DecodingTraits, packing: int | None) -> None:
        if packing is not None and (not isinstance(packing, int) or isinstance(packing, bool) or packing < 1):
            raise ValueError(f"packing is {packing!r}, expected a number of tokens, at least 1, or None")
        self._model = model
        self._switch = traits.switch
        self._call_overhead = call_overhead(model)
        self._attention_cost = attention_cost(model)
        self.shares_prompts = shares_prompts(model, compute, traits)
        self.packing = packing
        if packing is not None and not packs_rows(model, compute):
            self.packing = None
            warnings.warn(
                f"packing={packing} is left out: rows behind each other in one sequence do not come out of "
                f"{type(model).__name__} as each does alone",
                stacklevel=4,
            )

    def of_copy(self, model: Any) -> RowLayout:
        """The same for a copy of the model."""
        other = copy.copy(self)
        other._model = model
        return other

    def at_decisions(self, batch: CompletionBatch, compute: Compute) -> Tensor:
        """What the model computes where the batch's decisions are made, [D, X].

        Where the model codes the positions of long sequences otherwise, decisions in these are computed apart.
        """
        if self._switch is None:
            return self._of_rows(batch, compute)
        parts = parts_by_length(batch, self._switch)
        computed = torch.cat([self._of_rows(part, compute) for _, part in parts])
        return computed.index_select(0, torch.cat([decisions for decisions, _ in parts]).argsort())

    def _of_rows(self, batch: CompletionBatch, compute: Compute) -> Tensor:
        lengths = batch.lengths - 1
        if self.packing is not None:
            return at_decisions(batch, PackedRows(compute), packed_buckets(lengths, self.packing))
        buckets = length_buckets(lengths, self._call_overhead)
        if self.shares_prompts and len(lengths) > 1 and not computes_layers_again(self._model):
            costs = {"overhead": self._call_overhead, "per_attended": self._attention_cost}
            prompts = SharedPrompts.of(batch)
            after = length_buckets(lengths - prompts.lengths, self._call_overhead)
            if prompts.cost(lengths, after, **costs) < cost_of_calls(buckets, lengths, lengths / 2, **costs):
                return at_decisions(batch, RowsAfterPrompts(self._model, compute, prompts), after)
        return at_decisions(batch, WholeRows(compute), buckets)


def packs_rows(model: Any, compute: Compute) -> bool:
    """Whether rows packed into one sequence come out as each does alone, gradients too, which a few tokens tell."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    return RowProbe(model).agrees(lambda: WholeRows(compute), lambda: PackedRows(compute))
