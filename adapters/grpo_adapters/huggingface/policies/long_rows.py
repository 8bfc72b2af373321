"""Rows cut where a model begins to code positions otherwise."""

from __future__ import annotations

from torch import Tensor

from grpo import Segments
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch


def parts_by_length(batch: CompletionBatch, switch: int) -> list[tuple[Tensor, CompletionBatch]]:
    """A batch cut into the decisions after at most ``switch`` tokens and those after more, where there are any.

    Returns:
        The indices of the decisions, int64, with a batch of them alone, in the same order. No row of the first part has
        more than ``switch`` tokens before a decision.
    """
    parts = []
    for kept in (batch.positions <= switch, batch.positions > switch):
        decisions = kept.nonzero().squeeze(1)
        if len(decisions):
            parts.append((decisions, _with_decisions(batch, decisions)))
    return parts


def _with_decisions(batch: CompletionBatch, decisions: Tensor) -> CompletionBatch:
    """Only these decisions, and rows that have any, up to the last of them; each row is a sample of its own."""
    kept_rows, counts = batch.rows.ids[decisions].unique_consecutive(return_counts=True)
    rows = Segments.of_lengths(counts)
    positions = batch.positions[decisions]
    drawn = batch.sampling_log_probs
    return CompletionBatch(
        batch.tokens[kept_rows],
        positions[rows.last] + 1,
        positions,
        rows,
        rows,
        Segments.of_lengths(batch.turns.ids[decisions].unique_consecutive(return_counts=True)[1]),
        batch.truncated[batch.samples.ids[decisions[rows.starts]]],
        None if drawn is None else drawn[decisions],
    )
