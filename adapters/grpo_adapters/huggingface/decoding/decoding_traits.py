"""How a model goes on with sequences, found out by a few tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grpo_adapters.huggingface.decoding.decoder import Decoder, DecodingTraits
from grpo_adapters.huggingface.models.long_positions import length_of_switch

REFUSALS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What a model raises that is given a cache or a mask it does not know."""


def traits_of(model: Any) -> DecodingTraits:
    """How a model, in evaluation mode, goes on with sequences."""
    ways = (DecodingTraits(), DecodingTraits(asks_for_positions=True))
    traits = next((way for way in ways if goes_on_from_cache(model, way)), DecodingTraits(caches=False))
    return replace(traits, pads=leaves_padding_out(model, traits), switch=length_of_switch(model))


@torch.no_grad()
def goes_on_from_cache(model: Any, traits: DecodingTraits) -> bool:
    """Whether a token gets the same logits from a cache, of rows in another order, as from all tokens before it.

    Some models keep what they made of earlier tokens in a cache of their own kind.
    """
    first, second, third, _ = probed_tokens(model)
    prompts, rows = [[first, second, third], [third, second, first]], torch.tensor([1, 0, 1])
    new = torch.tensor([first, second, third])
    whole = torch.cat((torch.tensor(prompts)[rows], new.unsqueeze(1)), dim=1).to(model.device)
    try:
        decoder = Decoder(model, prompts, model.device, traits)
        if decoder.cache is None:
            return False
        decoder.start()
        decoder.select(rows.to(model.device))
        found = decoder.advance(new.to(model.device))
    except REFUSALS:
        return False
    return _agree(found, model(input_ids=whole, use_cache=False).logits[:, -1], model)


@torch.no_grad()
def leaves_padding_out(model: Any, traits: DecodingTraits) -> bool:
    """Whether a prompt and what follows it get the same logits alone and beside a longer one.

    Some models, recurrent ones among them, take no notice of what is masked, or count positions through it.
    """
    long = probed_tokens(model)
    short = long[1:3]
    alone, beside = (Decoder(model, prompts, model.device, traits) for prompts in ([short], [long, short]))
    if not _agree(beside.start()[1], alone.start()[0], model):
        return False
    new = torch.tensor([long[0], long[1]], device=model.device)
    expected = alone.advance(new[1:])
    try:
        found = beside.advance(new)
    except REFUSALS:
        return False
    return _agree(found[1], expected[0], model)


def probed_tokens(model: Any) -> list[int]:
    """Four tokens that are no padding, whose positions some models count otherwise."""
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    known = len(model.get_input_embeddings().weight)
    tokens = [token for token in range(min(known, 5)) if token != padding]
    return [tokens[place % len(tokens)] for place in range(4)]


def _agree(found: Tensor, expected: Tensor, model: Any) -> bool:
    rounding = torch.finfo(model.dtype).eps ** 0.5 * float(expected.abs().max())
    return torch.allclose(found.float(), expected.float(), rtol=0.0, atol=rounding, equal_nan=True)
