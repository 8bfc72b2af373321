"""Turns of several conversations, for which a model keeps what it has read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from grpo_adapters.huggingface.decoding.decoder import Decoder, keeps_every_token
from grpo_adapters.huggingface.decoding.generation import Drawing, draw_completions, sample_completions
from grpo_adapters.huggingface.text.completions import Completion


@dataclass(frozen=True, slots=True)
class Held:
    """What a decoder has of a conversation.

    Attributes:
        row: of the decoder.
        token_ids: that its keys and values were made of.
    """

    row: int
    token_ids: tuple[int, ...]


class KeptTurns:
    """Continues conversations turn by turn; keys and values of a turn are those that the next one goes on from.

    They are computed anew where a context does not go on with the very tokens before it, and at every turn for models
    whose layers keep something else than keys and values of all tokens.

    Args:
        drawing: what turns are drawn with.
        mode: entered where the model samples.
    """

    def __init__(self, drawing: Drawing, mode: Callable[[], AbstractContextManager[None]]) -> None:
        self._drawing = drawing
        self._mode = mode
        self._keeps = keeps_every_token(drawing.model, drawing.traits)
        self._decoder: Decoder | None = None
        self._held: dict[int, Held] = {}

    def complete(self, conversations: Sequence[int], contexts: Sequence[tuple[int, ...]]) -> list[Completion]:
        """A turn of each conversation.

        Args:
            conversations: a number for each, by which it is known again.
            contexts: what each has read, token ids.
        """
        with torch.no_grad(), self._mode():
            return self._kept(conversations, contexts) if self._keeps else self._anew(contexts)

    def _kept(self, conversations: Sequence[int], contexts: Sequence[tuple[int, ...]]) -> list[Completion]:
        decoder, logits = self._read(conversations, contexts)
        before = decoder.length
        completions = draw_completions(self._drawing, decoder, logits, keeps_all=True)
        num_read = decoder.length - before  # of the new tokens; the last of a turn is not
        self._decoder, self._held = decoder, {}
        for row, (name, context, own) in enumerate(zip(conversations, contexts, completions, strict=True)):
            self._held[name] = Held(row, (*context, *own.token_ids[:num_read]))
        return completions

    def _read(self, conversations: Sequence[int], contexts: Sequence[tuple[int, ...]]) -> tuple[Decoder, torch.Tensor]:
        """A decoder that has read the contexts, and the logits of their next tokens."""
        device = self._drawing.generator.device
        held = [self._held.get(name) for name in conversations]
        decoder = self._decoder
        if decoder is not None and all(
            own is not None and len(own.token_ids) < len(context) and context[: len(own.token_ids)] == own.token_ids
            for own, context in zip(held, contexts, strict=True)
        ):
            known = [own for own in held if own is not None]
            decoder.select(torch.tensor([own.row for own in known], device=device))
            return decoder, decoder.go_on(contexts, [len(own.token_ids) for own in known])
        distinct = list(dict.fromkeys(contexts))  # conversations of a group begin alike
        decoder = Decoder(self._drawing.model, distinct, device, self._drawing.traits)
        places = {context: place for place, context in enumerate(distinct)}
        copies = torch.tensor([places[context] for context in contexts], device=device)
        logits = decoder.start()[copies]
        decoder.select(copies)
        return decoder, logits

    def _anew(self, contexts: Sequence[tuple[int, ...]]) -> list[Completion]:
        return [completion for (completion,) in sample_completions(self._drawing, contexts, 1)]
