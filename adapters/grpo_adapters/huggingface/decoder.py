"""A causal language model that continues a batch of sequences, token by token."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values of a layer, in buffers with room for the tokens to come: a new token does not copy all before.

    Attributes:
        capacity: tokens to make room for, at the first update after it was set.
    """

    capacity = 0
    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, [B, heads, T, size] each; those of all tokens so far."""
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if after > self.capacity:
            return super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None
        assert self.values is not None
        if self._room is None:
            self._room = (self._with_room(self.keys), self._with_room(self.values))
        for buffer, new in zip(self._room, (key_states, value_states), strict=True):
            buffer[:, :, before:after] = new
        self.keys, self.values = (buffer[:, :, :after] for buffer in self._room)
        return self.keys, self.values

    def _with_room(self, kept: Tensor) -> Tensor:
        batch, heads, length, size = kept.shape
        buffer = kept.new_empty(batch, heads, self.capacity, size)
        buffer[:, :, :length] = kept
        return buffer

    def reorder_cache(self, beam_idx: Any) -> None:
        """Take the sequences at ``beam_idx``, which may be more or fewer than there were."""
        super().reorder_cache(beam_idx)
        self._room = None


class Decoder:
    """Sequences that a model continues, with a cache of keys and values where it has one.

    Args:
        model: gives logits.
        prompts: token ids of the sequences so far.
        device: of the model.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.length = max(len(prompt) for prompt in prompts)
        padding = [self.length - len(prompt) for prompt in prompts]
        padded = [[0] * own + list(prompt) for own, prompt in zip(padding, prompts, strict=True)]
        accepted = inspect.signature(model.forward).parameters
        self.model = model
        self.tokens = torch.tensor(padded, device=device)
        self.padding = torch.tensor(padding, device=device)
        self.is_padded = any(padding)
        self.accepts_positions = "position_ids" in accepted
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.cache: DynamicCache | None = None
        if "past_key_values" in accepted:
            self.cache = DynamicCache(config=model.config)
            make_layer: Any = GrowingLayer
            layers = self.cache.layers
            self.cache.layers = [make_layer() if type(layer) is DynamicLayer else layer for layer in layers]

    def start(self) -> Tensor:
        """Logits of the first new token, [B, V]."""
        return self._logits(self.tokens)

    def advance(self, tokens: Tensor) -> Tensor:
        """Append a token to each sequence, [B]; logits of the next, [B, V]."""
        self.length += 1
        if self.cache is not None:
            return self._logits(tokens.unsqueeze(1))
        self.tokens = torch.cat((self.tokens, tokens.unsqueeze(1)), dim=1)
        return self._logits(self.tokens)

    def select(self, rows: Any) -> None:
        """Go on with the sequences at ``rows`` only, which may hold one several times."""
        self.padding = self.padding[rows]
        if self.cache is None:
            self.tokens = self.tokens[rows]
        else:
            self.cache.reorder_cache(rows)

    def make_room(self, num_tokens: int) -> None:
        """Expect so many new tokens."""
        for layer in self.cache.layers if self.cache is not None else ():
            if isinstance(layer, GrowingLayer):
                layer.capacity = self.length + num_tokens

    def _logits(self, tokens: Tensor) -> Tensor:
        inputs: dict[str, Any] = {}
        if self.is_padded:
            positions = torch.arange(self.length, device=tokens.device)
            inputs["attention_mask"] = (positions >= self.padding.unsqueeze(1)).long()
            if self.accepts_positions:
                own = positions[-tokens.shape[1] :] - self.padding.unsqueeze(1)
                inputs["position_ids"] = own.clamp(min=0)
        if self.cache is not None:
            inputs["past_key_values"] = self.cache
        output = self.model(input_ids=tokens, use_cache=self.cache is not None, **inputs, **self.options)
        logits: Tensor = output.logits[:, -1]
        return logits


@torch.no_grad()
def leaves_padding_out(model: Any) -> bool:
    """Whether a prompt gets the same logits alone and beside a longer one, which a few tokens tell.

    Some models, recurrent ones among them, take no notice of what is masked, or count positions through it.
    """
    long, short = [0, 1, 2, 3], [1, 2]
    alone = Decoder(model, [short], model.device).start()[0].float()
    beside = Decoder(model, [long, short], model.device).start()[1].float()
    rounding = torch.finfo(model.dtype).eps ** 0.5 * float(alone.abs().max())
    return torch.allclose(alone, beside, rtol=0.0, atol=rounding, equal_nan=True)
