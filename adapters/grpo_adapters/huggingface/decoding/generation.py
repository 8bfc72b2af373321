"""Sampling completions.

Every prompt is computed once for its group, and rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.decoding.decoder import Decoder, DecodingTraits
from grpo_adapters.huggingface.decoding.sampling import SamplingConfig, draw_tokens, drawn_log_probs
from grpo_adapters.huggingface.text.completions import Completion

SHRINKING_FRACTION = 7 / 8  # the batch shrinks once an eighth of its rows has ended


@dataclass(frozen=True, slots=True)
class Drawing:
    """What completions are drawn with.

    Attributes:
        model: gives logits.
        tokenizer: turns tokens into text.
        end_tokens: that end a completion.
        sampling: how to draw.
        generator: draws the tokens, on the device of the model.
        traits: of the model, which say what prompts go through it together.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    end_tokens: Collection[int]
    sampling: SamplingConfig
    generator: torch.Generator
    traits: DecodingTraits


def sample_completions(
    drawing: Drawing, prompts: Sequence[Sequence[int]], num_completions: int
) -> list[list[Completion]]:
    """A group of completions for each prompt.

    Args:
        drawing: what they are drawn with.
        prompts: token ids of S prompts.
        num_completions: completions of each, G.

    Returns:
        S groups of G completions.
    """
    together: dict[str | int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        together.setdefault(_kind_of(len(prompt), drawing), []).append(index)
    groups: dict[int, list[Completion]] = {}
    for indices in together.values():
        chosen = [prompts[index] for index in indices]
        sampled = _sample_together(drawing, chosen, num_completions)
        groups.update(zip(indices, sampled, strict=True))
    return [groups[index] for index in range(len(prompts))]


def _kind_of(length: int, drawing: Drawing) -> str | int:
    """What prompts have in common that go through the model together."""
    traits = drawing.traits
    if not traits.pads or traits.crosses_switch(length, drawing.sampling.max_new_tokens):
        return length
    return "short" if traits.switch is None or length <= traits.switch else "long"


@torch.no_grad()
def _sample_together(
    drawing: Drawing, prompts: Sequence[Sequence[int]], num_completions: int
) -> list[list[Completion]]:
    device = drawing.generator.device
    decoder = Decoder(drawing.model, prompts, device, drawing.traits)
    copies = torch.arange(len(prompts), device=device).repeat_interleave(num_completions)
    logits = decoder.start()[copies]
    decoder.select(copies)
    completions = draw_completions(drawing, decoder, logits)
    return [completions[start : start + num_completions] for start in range(0, len(completions), num_completions)]


def draw_completions(
    drawing: Drawing, decoder: Decoder, logits: Tensor, *, keeps_all: bool = False
) -> list[Completion]:
    """A completion of each of the B sequences of a decoder.

    Args:
        drawing: what they are drawn with.
        decoder: has read the sequences.
        logits: of the first new token, [B, V].
        keeps_all: whether the decoder keeps sequences that have ended; their tokens after the end are no one's.
    """
    tokenizer, sampling, generator = drawing.tokenizer, drawing.sampling, drawing.generator
    count, device = len(logits), logits.device
    is_end = torch.zeros(logits.shape[1], dtype=torch.bool, device=device)
    is_end[torch.tensor(sorted(drawing.end_tokens), dtype=torch.int64, device=device)] = True
    decoder.make_room(sampling.max_new_tokens)
    sampled = torch.zeros(count, sampling.max_new_tokens, dtype=torch.int64, device=device)
    log_probs = torch.zeros(sampled.shape if sampling.with_log_probs else (0, 0), device=device)
    lengths = torch.full((count,), sampling.max_new_tokens, device=device)
    going = torch.ones_like(lengths, dtype=torch.bool)
    rows = torch.arange(count, device=device)  # of the sequences that the decoder still has
    for length in range(1, sampling.max_new_tokens + 1):
        tokens = draw_tokens(logits, sampling, generator)
        sampled[rows, length - 1] = tokens
        if sampling.with_log_probs:
            log_probs[rows, length - 1] = drawn_log_probs(logits, tokens, sampling)
        ending = is_end[tokens]
        if sampling.stop_strings:
            ending |= _contain_any(sampling.stop_strings, sampled[rows, :length], tokenizer)
        if ending.any():
            was_going = going[rows]
            lengths[rows] = torch.where(was_going & ending, length, lengths[rows])
            going[rows] = was_going & ~ending
            kept = going[rows].nonzero().squeeze(1)
            if len(kept) == 0:
                break
            if len(kept) <= SHRINKING_FRACTION * len(rows) and not keeps_all:
                decoder.select(kept)
                rows, tokens = rows[kept], tokens[kept]
        if length < sampling.max_new_tokens:
            logits = decoder.advance(tokens)
    return _completions(sampled, log_probs, lengths, ~going, tokenizer)


def _completions(
    tokens: Tensor, log_probs: Tensor, lengths: Tensor, ended: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[Completion]:
    """Rows of tokens [B, T] up to their lengths [B]; log-probs are [B, T], or empty where they are not told."""
    cut = lengths.tolist()
    token_ids = [row[:length] for row, length in zip(tokens.tolist(), cut, strict=True)]
    drawn: list[tuple[float, ...] | None] = [None] * len(cut)
    if log_probs.numel():
        drawn = [tuple(row[:length]) for row, length in zip(log_probs.tolist(), cut, strict=True)]
    texts = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    rows = zip(token_ids, texts, ended.tolist(), drawn, strict=True)
    return [Completion(tuple(own), text, whole, drawn_with) for own, text, whole, drawn_with in rows]


def _contain_any(strings: Sequence[str], tokens: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Whether the text of each row of tokens [B, T] has one of the strings near its end, bool [B]."""
    reach = 4 * max(len(string) for string in strings)  # a character is four tokens at the most, one for each byte
    texts = tokenizer.batch_decode(tokens[:, -reach:])
    return torch.tensor([any(string in text for string in strings) for text in texts], device=tokens.device)
