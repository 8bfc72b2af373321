"""Rows of token ids that a language model read or wrote, made ready for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grpo import Segments
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Turn, rows_of


class CompletionBatch:
    """Token ids that a policy read and wrote, as a rectangle; those that it wrote are the decisions.

    A sample is one row, or several where a conversation could not be gone on with in the same row.

    Attributes:
        tokens: all tokens of each row and padding on the right, int64 of shape [R, L].
        lengths: tokens of each row without padding, int64 of shape [R].
        positions: the place of each decision in its row, int64 of shape [D].
        samples: the D decisions cut into N samples.
        rows: the D decisions cut into R rows.
        turns: the D decisions cut into turns.
        truncated: whether a sample was cut at a limit, such as the maximum number of new tokens, bool [N].
        sampling_log_probs: log-probs that the decisions were drawn with, [D], nats; None where they are not known.
    """

    __slots__ = (
        "lengths",
        "positions",
        "rows",
        "samples",
        "sampling_log_probs",
        "tokens",
        "truncated",
        "turns",
    )

    def __init__(
        self,
        tokens: Tensor,
        lengths: Tensor,
        positions: Tensor,
        samples: Segments,
        rows: Segments,
        turns: Segments,
        truncated: Tensor,
        sampling_log_probs: Tensor | None = None,
    ) -> None:
        self.tokens = tokens
        self.lengths = lengths
        self.positions = positions
        self.samples = samples
        self.rows = rows
        self.turns = turns
        self.truncated = truncated
        self.sampling_log_probs = sampling_log_probs

    @classmethod
    def of(cls, samples: Sequence[Sequence[Turn]], ended: Sequence[bool], device: torch.device) -> CompletionBatch:
        """The turns of each of N samples on a device. Turns that go on where the one before ended share a row.

        Args:
            samples: the turns of each of N samples.
            ended: whether each came to its end, N.
            device: of the tensors.

        Raises:
            ValueError: if the log-probs that tokens were drawn with are known of some completions and not of others.
        """
        parts = [part for turns in samples for part in rows_of(turns)]
        longest = max(len(part[-1]) for part in parts)
        sequences = [(*part[-1].context, *part[-1].completion.token_ids) for part in parts]
        # Any token can fill up a row, since no token looks at those behind it; the first is never a model's padding.
        tokens = torch.tensor([(*own, *own[:1] * (longest - len(own))) for own in sequences])
        turns = [turn for part in parts for turn in part]
        own_lengths = [len(turn.completion) for turn in turns]
        cut = Segments.of_lengths(own_lengths)
        one_each = len(parts) == len(samples) == len(turns)
        rows = cut if one_each else Segments.of_lengths([_decisions(part) for part in parts])
        whole = rows if len(parts) == len(samples) else Segments.of_lengths([_decisions(own) for own in samples])
        drawn = _drawn_log_probs([turn.completion for turn in turns])
        on_device = rows.to(device)
        return cls(
            tokens.to(device),
            torch.tensor([len(sequence) for sequence in sequences], device=device),
            consecutive(torch.tensor([len(turn.context) for turn in turns]), cut).to(device),
            on_device if whole is rows else whole.to(device),
            on_device,
            on_device if cut is rows else cut.to(device),
            torch.tensor([not whole for whole in ended], device=device),
            None if drawn is None else drawn.to(device),
        )

    @property
    def targets(self) -> Tensor:
        """The tokens that were decided on end to end, int64 of shape [D]."""
        return self.tokens.flatten()[self.rows.ids * self.tokens.shape[1] + self.positions]

    def select(self, rows: Tensor) -> CompletionBatch:
        """The given rows, each a sample of its own."""
        decisions, chosen, drawn = self.rows.positions(rows), self.rows.select(rows), self.sampling_log_probs
        samples = rows if self.samples is self.rows else self.samples.ids[self.rows.starts[rows]]
        return CompletionBatch(
            self.tokens[rows],
            self.lengths[rows],
            self.positions[decisions],
            chosen,
            chosen,
            chosen if self.turns is self.rows else self._turns_of(rows),
            self.truncated[samples],
            None if drawn is None else drawn[decisions],
        )

    def _turns_of(self, rows: Tensor) -> Segments:
        """The decisions of the given rows cut into turns."""
        return self.turns.select(self.turns.count_within(self.rows).positions(rows))


def _decisions(turns: Sequence[Turn]) -> int:
    return sum(len(turn.completion) for turn in turns)


def _drawn_log_probs(completions: Sequence[Completion]) -> Tensor | None:
    """Log-probs that the tokens were drawn with, float32 of shape [D]; None where no completion knows its own."""
    known = [completion.log_probs is not None for completion in completions]
    if not any(known):
        return None
    if not all(known):
        raise ValueError(
            f"completion {known.index(False)} has no log_probs, while others have: let all of a step be made by "
            f"samplers that tell the log-probs they drew with, or by none"
        )
    return torch.tensor([value for completion in completions for value in completion.log_probs or ()])


def consecutive(first: Tensor, segments: Segments) -> Tensor:
    """Numbers that count up from ``first`` [K] in each of the K segments, int64 of shape [total]."""
    return segments.expand(first - segments.starts) + torch.arange(segments.total, device=first.device)


def length_metrics(lengths: Tensor) -> dict[str, float]:
    """``completions/{mean,min,max}_length`` of completions of so many tokens."""
    lengths = lengths.float()
    mean, shortest, longest = torch.stack((lengths.mean(), lengths.min(), lengths.max())).tolist()
    return {
        "completions/mean_length": mean,
        "completions/min_length": shortest,
        "completions/max_length": longest,
    }


def check_fits(batch: CompletionBatch, context: int | None) -> None:
    """Rows must fit into the model's context, tokens; None for one without end.

    Raises:
        ValueError: if one does not.
    """
    if context is not None and batch.tokens.shape[1] > context:
        row = int(batch.lengths.argmax())
        sample, read = int(batch.samples.ids[batch.rows.starts[row]]), int(batch.positions[batch.rows.starts[row]])
        raise ValueError(
            f"prompt and completion {sample} have {read:,} and {int(batch.lengths[row]) - read:,} tokens, expected at "
            f"most {context:,} together, the model's context: leave the sample out, or cut the completion"
        )
