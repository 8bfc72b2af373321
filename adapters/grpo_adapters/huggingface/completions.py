"""What a language model answers, made ready for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo import Segments


@dataclass(frozen=True, slots=True)
class Completion:
    """What a language model answered to a prompt.

    The token ids are those that were sampled; nothing is ever tokenised again, so that log-probs belong to the very
    decisions that were made.

    Attributes:
        token_ids: the tokens that were sampled, at least one, with the token that ended it where one did.
        text: what they say, without special tokens.
        ended: whether it came to an end by itself, by an end token or a stop string; false where it was cut at the
            maximum number of new tokens.
    """

    token_ids: tuple[int, ...]
    text: str
    ended: bool = True

    def __len__(self) -> int:
        return len(self.token_ids)


def check_completions(actions: Sequence[object], num_states: int, num_tokens: int) -> None:
    """Actions must be completions of tokens below ``num_tokens``, one for each state.

    Raises:
        TypeError: if one is something else.
        ValueError: if there are more or fewer, or one has no token, or a token that the model does not know.
    """
    if len(actions) != num_states:
        raise ValueError(f"there are {num_states} states and {len(actions)} actions, expected one state each action")
    for index, action in enumerate(actions):
        if not isinstance(action, Completion):
            raise TypeError(f"action {index} is a {type(action).__name__}, expected a Completion of a language model")
        if len(action) == 0:
            raise ValueError(
                f"completion {index} has no token, expected at least one: a model that says nothing still samples the "
                f"token that ends its completion"
            )
        if not (min(action.token_ids) >= 0 and max(action.token_ids) < num_tokens):
            wrong = next(token for token in action.token_ids if not 0 <= token < num_tokens)
            raise ValueError(
                f"completion {index} has the token {wrong}, expected tokens from 0 to {num_tokens - 1}, which the "
                f"model knows: it was sampled with another tokenizer"
            )


class CompletionBatch:
    """Prompts with their completions as a rectangle of token ids: a sample is a row of as many decisions as tokens.

    Attributes:
        tokens: prompt, completion and padding on the right, int64 of shape [N, L].
        prompt_lengths: int64 of shape [N].
        completion_lengths: int64 of shape [N].
        samples: the D completion tokens cut into N samples.
        rows: the same.
        truncated: whether a completion was cut at the maximum number of new tokens, bool [N].
    """

    __slots__ = ("completion_lengths", "prompt_lengths", "rows", "samples", "tokens", "truncated")

    def __init__(self, tokens: Tensor, prompt_lengths: Tensor, completion_lengths: Tensor, truncated: Tensor) -> None:
        self.tokens = tokens
        self.prompt_lengths = prompt_lengths
        self.completion_lengths = completion_lengths
        self.truncated = truncated
        self.samples = self.rows = Segments.of_lengths(completion_lengths)

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], completions: Sequence[Completion], device: torch.device
    ) -> CompletionBatch:
        """Prompts and completions on a device."""
        sequences = [(*prompt, *completion.token_ids) for prompt, completion in zip(prompts, completions, strict=True)]
        longest = max(len(sequence) for sequence in sequences)
        # Any token can fill up a row, since no token looks at those behind it; the first is never a model's padding.
        tokens = torch.tensor([(*own, *own[:1] * (longest - len(own))) for own in sequences])
        return cls(
            tokens.to(device),
            torch.tensor([len(prompt) for prompt in prompts], device=device),
            torch.tensor([len(completion) for completion in completions], device=device),
            torch.tensor([not completion.ended for completion in completions], device=device),
        )

    @property
    def targets(self) -> Tensor:
        """The completion tokens end to end, int64 of shape [D]."""
        starts = torch.arange(len(self.tokens), device=self.tokens.device) * self.tokens.shape[1]
        return self.tokens.flatten()[consecutive(starts + self.prompt_lengths, self.samples)]

    def select(self, rows: Tensor) -> CompletionBatch:
        """The samples at ``rows``."""
        return CompletionBatch(
            self.tokens[rows], self.prompt_lengths[rows], self.completion_lengths[rows], self.truncated[rows]
        )


def consecutive(first: Tensor, segments: Segments) -> Tensor:
    """Numbers that count up from ``first`` [K] in each of the K segments, int64 of shape [total]."""
    return segments.expand(first - segments.starts) + torch.arange(segments.total, device=first.device)


def check_fits(batch: CompletionBatch, context: int | None) -> None:
    """Prompts with their completions must fit into the model's context, tokens; None for one without end.

    Raises:
        ValueError: if one does not.
    """
    if context is not None and batch.tokens.shape[1] > context:
        lengths = batch.prompt_lengths + batch.completion_lengths
        index = int(lengths.argmax())
        raise ValueError(
            f"prompt and completion {index} have {batch.prompt_lengths[index]:,} and "
            f"{batch.completion_lengths[index]:,} tokens, expected at most {context:,} together, the model's context: "
            f"leave the sample out, or cut the completion"
        )
