"""Prompts that several rows begin with, each computed once."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grpo_adapters.huggingface.decoding.decoder import DecodingTraits
from grpo_adapters.huggingface.policies.at_decisions import Compute, RowProbe, WholeRows, rows_of_rectangle
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch
from grpo_adapters.huggingface.policies.length_buckets import cost_of_calls

SHARED_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)
"""Caches of attention; what a recurrent layer keeps is written in place, so that no gradient goes through it."""

SHARED_ATTENTION = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class SharedPrompts:
    """The different prompts of a batch's rows: all that a row has before its first decision.

    Attributes:
        tokens: token ids, padding on the left, int64 of shape [U, P].
        padding: tokens of padding of each, int64 of shape [U].
        of_row: the prompt of each row, int64 of shape [R].
        lengths: tokens of each row's prompt, int64 of shape [R].
    """

    tokens: Tensor
    padding: Tensor
    of_row: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, batch: CompletionBatch) -> SharedPrompts:
        """The prompts of a batch."""
        lengths = batch.positions[batch.rows.starts]
        longest = int(lengths.max())
        places = torch.arange(-longest, 0, device=lengths.device) + lengths.unsqueeze(1)
        padded = batch.tokens.gather(1, places.clamp(min=0)).masked_fill(places < 0, -1)
        tokens, of_row = torch.unique(padded, dim=0, return_inverse=True)
        return cls(tokens.clamp(min=0), (tokens < 0).sum(1), of_row, lengths)

    def cost(self, lengths: Tensor, buckets: Sequence[Tensor], *, overhead: float, per_attended: float) -> float:
        """What the prompts, and then the rest of rows of so many tokens, cost; see :func:`cost_of_calls`."""
        options = {"overhead": overhead, "per_attended": per_attended}
        longest = torch.full_like(self.padding, self.tokens.shape[1])
        own = cost_of_calls([torch.arange(len(longest))], longest, longest / 2, **options)
        rest = lengths - self.lengths
        return own + cost_of_calls(buckets, rest, rest + longest[0], **options)

    @property
    def mask(self) -> Tensor:
        """Which tokens are no padding, bool [U, P]."""
        return torch.arange(self.tokens.shape[1], device=self.padding.device) >= self.padding.unsqueeze(1)


class RowsAfterPrompts:
    """What a model computes for rows, from keys and values of their prompts.

    The last token of a prompt decides on the first of its completions, so what is computed of it comes along.

    Args:
        model: a causal language model that :func:`shares_prompts`.
        compute: what it makes of tokens.
        prompts: of the rows.
    """

    def __init__(self, model: Any, compute: Compute, prompts: SharedPrompts) -> None:
        self.compute = compute
        self.prompts = prompts
        self.accepts_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.cache = DynamicCache(config=model.config)
        counted = torch.arange(prompts.tokens.shape[1], device=prompts.tokens.device)
        positions = (counted - prompts.padding.unsqueeze(1)).clamp(min=0)
        self.last = self._compute(prompts.tokens, prompts.mask, positions, self.cache)[:, -1:]

    def __call__(self, part: CompletionBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """From the last token of each row's prompt on, without the last of the row."""
        computed, starts = rows_of_rectangle(self._after_prompts(part, rows))
        return computed, starts - (self.prompts.lengths[rows] - 1)

    def _after_prompts(self, part: CompletionBatch, rows: Tensor) -> Tensor:
        own, lengths = self.prompts.of_row[rows], self.prompts.lengths[rows]
        width = int((part.lengths - lengths).max()) - 1
        if width == 0:
            return self.last[own]
        positions = lengths.unsqueeze(1) + torch.arange(width, device=lengths.device)
        tokens = part.tokens.gather(1, positions.clamp(max=part.tokens.shape[1] - 1))
        mask = torch.cat((self.prompts.mask[own], torch.ones_like(tokens, dtype=torch.bool)), dim=1)
        return torch.cat((self.last[own], self._compute(tokens, mask, positions, self._cache_of(own))), dim=1)

    def _cache_of(self, prompts: Tensor) -> DynamicCache:
        """Keys and values of the given prompts, which the model may add to."""
        chosen = copy.copy(self.cache)
        chosen.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in chosen.layers:
            assert isinstance(layer, DynamicLayer)
            if layer.keys is not None and layer.values is not None:  # some layers read those of another
                layer.keys, layer.values = layer.keys[prompts], layer.values[prompts]
        return chosen

    def _compute(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        inputs = {"position_ids": positions} if self.accepts_positions else {}
        return self.compute(tokens, attention_mask=mask.long(), past_key_values=cache, **inputs)


def computes_layers_again(model: Any) -> bool:
    """Whether layers are computed again in the backward pass, which leaves no keys and values to go on from."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def shares_prompts(model: Any, compute: Compute, traits: DecodingTraits) -> bool:
    """Whether rows after prompts that are computed once are the rows computed whole, and their gradients too.

    A few tokens tell, after prompts of different lengths, for a model whose layers keep nothing of a prompt but keys
    and values, at positions that do not depend on what follows.

    Args:
        model: a causal language model, in evaluation mode.
        compute: what it makes of tokens.
        traits: how it goes on with sequences.
    """
    if not (traits.caches and traits.pads and traits.switch is None and _keeps_keys_and_values_only(model)):
        return False
    probe = RowProbe(model)
    return probe.agrees(
        lambda: WholeRows(compute), lambda: RowsAfterPrompts(model, compute, SharedPrompts.of(probe.batch))
    )


def _keeps_keys_and_values_only(model: Any) -> bool:
    config = model.config.get_text_config()
    return (
        {"past_key_values", "attention_mask"} <= set(inspect.signature(model.forward).parameters)
        and set(getattr(config, "layer_types", None) or ()) <= SHARED_ATTENTION
        and all(type(layer) in SHARED_LAYERS for layer in DynamicCache(config=model.config).layers)
    )
