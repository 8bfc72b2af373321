"""Models that code positions otherwise once a sequence has grown beyond a length (LongRoPE).

The switch goes by the longest sequence of a call, and changes what the model makes of every token in it. The policy is
the model as it samples: the token after n others is drawn by a call of n tokens. So decisions up to the switch and
those beyond it are computed in calls of their own, whatever rows there are besides.

References:
    Ding et al. 2024, "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", arXiv:2402.13753.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from grpo import Segments
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch


def length_of_switch(model: Any) -> int | None:
    """The longest sequence before the model codes positions otherwise, tokens; None where it never does.

    Raises:
        ValueError: if some layers do from one length on, and others from another.
    """
    config = model.config.get_text_config()
    lengths = {
        int(parameters.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        for parameters in _rope_parameters(config)
        if "longrope" in (parameters.get("rope_type"), parameters.get("type"))
    }
    if len(lengths) > 1:
        raise ValueError(
            f"layers of {type(model).__name__} switch to long positions at different lengths, {sorted(lengths)}: set "
            f"original_max_position_embeddings to the same value in all of config.rope_parameters"
        )
    return next(iter(lengths), None)


def _rope_parameters(config: Any) -> Iterator[dict[str, Any]]:
    """Those of the model, or of each kind of its layers."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    yield parameters
    yield from (own for own in parameters.values() if isinstance(own, dict))


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
        batch.begins_turn[decisions],
        rows,
        rows,
        batch.truncated[batch.samples.ids[decisions[rows.starts]]],
        None if drawn is None else drawn[decisions],
    )
