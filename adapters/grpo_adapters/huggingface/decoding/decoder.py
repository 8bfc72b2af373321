"""A causal language model that continues a batch of sequences, token by token."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

STATE_SPACES = "cache_params"
"""What families without attention call their cache, which takes masks of new tokens only."""

CACHE_NAMES = ("past_key_values", STATE_SPACES)


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
        if self._room is None or self._room[0].shape[2] < self.capacity:
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

    def take(self, places: Tensor) -> None:
        """Keep of each sequence the tokens at the given places, int64 of shape [B, T]."""
        assert self.keys is not None
        assert self.values is not None
        index = places[:, None, :, None]
        self.keys, self.values = (
            held.gather(2, index.expand(-1, held.shape[1], -1, held.shape[3])) for held in (self.keys, self.values)
        )
        self._room = None

    def reorder_cache(self, beam_idx: Any) -> None:
        """Take the sequences at ``beam_idx``, which may be more or fewer than there were."""
        super().reorder_cache(beam_idx)
        self._room = None


@dataclass(frozen=True, slots=True)
class DecodingTraits:
    """How a model goes on with sequences.

    Attributes:
        caches: whether it goes on from a cache of what it made of earlier tokens.
        pads: whether prompts of different lengths go through it together.
        switch: the longest sequence before it codes positions otherwise, tokens; None where it never does.
        asks_for_positions: whether it counts from 0 again after what a cache holds, unless it is told positions.
    """

    caches: bool = True
    pads: bool = True
    switch: int | None = None
    asks_for_positions: bool = False

    def crosses_switch(self, length: int, num_new: int) -> bool:
        """Whether a prompt of ``length`` tokens is beyond the switch by the time its last new token is drawn."""
        return self.switch is not None and length <= self.switch < length + num_new - 1


class Decoder:
    """Sequences that a model continues, with a cache of keys and values where it has one.

    Args:
        model: gives logits.
        prompts: token ids of the sequences so far; of one length where some will be beyond the switch.
        device: of the model.
        traits: of the model.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        device: torch.device,
        traits: DecodingTraits,
    ) -> None:
        self.length = max(len(prompt) for prompt in prompts)
        padding = [self.length - len(prompt) for prompt in prompts]
        padded = [[0] * own + list(prompt) for own, prompt in zip(padding, prompts, strict=True)]
        accepted = inspect.signature(model.forward).parameters
        self.model = model
        self.tokens = torch.tensor(padded, device=device)
        self.padding = torch.tensor(padding, device=device)
        self.is_padded = any(padding)
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.switch = traits.switch
        self.accepts_positions = "position_ids" in accepted
        self.asks_for_positions = traits.asks_for_positions
        self.tells_positions = self.accepts_positions and (self.is_padded or self.asks_for_positions)
        self.capacity = 0
        self._mask: Tensor | None = None
        self.cache_name = next((name for name in CACHE_NAMES if name in accepted), None)
        self.cache = growing_cache(model) if traits.caches and self.cache_name is not None else None

    def start(self) -> Tensor:
        """Logits of the first new token, [B, V]."""
        return self._logits(self.tokens)

    def advance(self, tokens: Tensor) -> Tensor:
        """Append a token to each sequence, [B]; logits of the next, [B, V]."""
        is_beyond = self.length == self.switch
        self.length += 1
        self.tokens = torch.cat((self.tokens, tokens.unsqueeze(1)), dim=1)
        if self.cache is not None and not is_beyond:
            return self._logits(tokens.unsqueeze(1))
        if self.cache is not None:  # what it holds was made with positions coded as before
            self.cache = growing_cache(self.model)
        logits = self._logits(self.tokens)
        self._let_layers_grow()
        return logits

    def select(self, rows: Any) -> None:
        """Go on with the sequences at ``rows`` only, which may hold one several times."""
        self.padding = self.padding[rows]
        self._mask = None
        self.tokens = self.tokens[rows]
        if self.cache is not None:
            self.cache.reorder_cache(rows)

    def go_on(self, sequences: Sequence[Sequence[int]], num_held: Sequence[int]) -> Tensor:
        """Logits of the first new token after sequences that have grown, [B, V]; what is held is not computed again.

        Args:
            sequences: token ids of each, which begin with tokens that the decoder has of it.
            num_held: how many those are, fewer than the sequence has.
        """
        assert self.cache is not None
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=self.tokens.device)
        # All go through the model with equally many tokens, so that padding stays on the left.
        num_new = max(len(sequence) - held for sequence, held in zip(sequences, num_held, strict=True))
        self.length = int(lengths.max())
        padding = self.length - lengths
        places = torch.arange(self.length - num_new, device=padding.device) - padding.unsqueeze(1)
        places = (places + self.padding.unsqueeze(1)).clamp(min=0)
        for layer in self.cache.layers:
            assert isinstance(layer, GrowingLayer)
            layer.take(places)
        padded = [[0] * own + list(sequence) for own, sequence in zip(padding.tolist(), sequences, strict=True)]
        self.tokens = torch.tensor(padded, device=padding.device)
        self.padding, self.is_padded, self._mask = padding, bool(padding.any()), None
        self.tells_positions = self.accepts_positions and (self.is_padded or self.asks_for_positions)
        return self._logits(self.tokens[:, self.length - num_new :])

    def make_room(self, num_tokens: int) -> None:
        """Expect so many new tokens."""
        self.capacity = self.length + num_tokens
        self._let_layers_grow()

    def _let_layers_grow(self) -> None:
        for layer in self.cache.layers if self.cache is not None else ():
            if isinstance(layer, GrowingLayer):
                layer.capacity = self.capacity

    def _logits(self, tokens: Tensor) -> Tensor:
        inputs: dict[str, Any] = {}
        if self.is_padded:
            mask = self._mask_so_far()
            inputs["attention_mask"] = mask[:, -tokens.shape[1] :] if self.cache_name == STATE_SPACES else mask
        if self.tells_positions:
            positions = torch.arange(self.length - tokens.shape[1], self.length, device=tokens.device)
            inputs["position_ids"] = (positions - self.padding.unsqueeze(1)).clamp(min=0)
        if self.cache is not None:
            assert self.cache_name is not None
            inputs[self.cache_name] = self.cache
        output = self.model(input_ids=tokens, use_cache=self.cache is not None, **inputs, **self.options)
        logits: Tensor = output.logits[:, -1]
        return logits

    def _mask_so_far(self) -> Tensor:
        """1 where a token is no padding, [B, length]; made at once for the tokens to come."""
        if self._mask is None or self._mask.shape[1] < self.length:
            places = torch.arange(max(self.length, self.capacity), device=self.padding.device)
            self._mask = (places >= self.padding.unsqueeze(1)).long()
        return self._mask[:, : self.length]


def growing_cache(model: Any) -> DynamicCache:
    """An empty cache for a model, whose layers do not copy what they hold where the kind of layer allows."""
    cache = DynamicCache(config=model.config)
    make_layer: Any = GrowingLayer
    cache.layers = [make_layer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keeps_every_token(model: Any, traits: DecodingTraits) -> bool:
    """Whether a model's cache holds keys and values of all tokens, so that sequences of any lengths go on from it."""
    if not traits.caches or not traits.pads or traits.switch is not None:
        return False
    takes_cache = "past_key_values" in inspect.signature(model.forward).parameters
    return takes_cache and all(isinstance(layer, GrowingLayer) for layer in growing_cache(model).layers)
