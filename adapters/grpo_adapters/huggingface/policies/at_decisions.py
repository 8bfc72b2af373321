"""What a model computes where the decisions of a batch are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from grpo import Segments
from grpo_adapters.huggingface.decoding.decoding_traits import REFUSALS, probed_tokens
from grpo_adapters.huggingface.policies.completion_batch import CompletionBatch
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Turn

Compute = Callable[..., Tensor]
"""Makes [K, L, X] of token ids [K, L], and of what else a model takes by keyword."""


class RowsComputation(Protocol):
    """How rows go through a model."""

    def __call__(self, part: CompletionBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What is computed for the K rows of a part of the batch, namely ``rows`` of it.

        Returns:
            All that was computed, end to end, [T, X], and where in it the first token of each row would stand, int64
            of shape [K]: below 0 where the row's beginning was not computed.
        """


@dataclass(frozen=True, slots=True)
class WholeRows:
    """Each row goes through the model as it is; its last token decides nothing, so it is left out."""

    compute: Compute

    def __call__(self, part: CompletionBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """All of each row but its last token."""
        return rows_of_rectangle(self.compute(part.tokens[:, : int(part.lengths.max()) - 1]))


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows go through the model behind each other in one sequence, of which each sees itself only.

    That is what positions that begin anew tell a model of transformers: nothing is computed for padding.
    """

    compute: Compute

    def __call__(self, part: CompletionBatch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """All of each row but its last token."""
        cut = Segments.of_lengths(part.lengths - 1)
        positions = torch.arange(cut.total, device=cut.device) - cut.expand(cut.starts)
        tokens = part.tokens[cut.ids, positions]
        return self.compute(tokens.unsqueeze(0), position_ids=positions.unsqueeze(0)).squeeze(0), cut.starts


def rows_of_rectangle(computed: Tensor) -> tuple[Tensor, Tensor]:
    """What was computed for rows of one width, [K, W, X], end to end, and where each of them begins."""
    count, width = computed.shape[:2]
    return computed.flatten(0, 1), torch.arange(count, device=computed.device) * width


def at_decisions(batch: CompletionBatch, computation: RowsComputation, buckets: Sequence[Tensor]) -> Tensor:
    """What is computed where the batch's decisions are made, [D, X].

    Args:
        batch: R rows.
        computation: how rows go through the model.
        buckets: rows that go through it together, which hold each row once.
    """
    picked = []
    for rows in buckets:
        part = batch if len(buckets) == 1 else batch.select(rows)
        computed, starts = computation(part, rows)
        picked.append(computed.index_select(0, part.rows.expand(starts) + part.positions - 1))
    if len(buckets) == 1:
        return picked[0]
    return torch.cat(picked).index_select(0, batch.rows.positions(torch.cat(list(buckets))).argsort())


class RowProbe:
    """A few rows, by which a model tells whether another way through it computes the same, gradients too.

    Args:
        model: a causal language model, in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        first, second, third, fourth = probed_tokens(model)
        prompts = [(first, second, third), (first, second, third), (second, fourth)]
        completions = [(fourth, second, first), (third, fourth), (first, third, third)]
        samples = [(Turn(prompt, Completion(rest, "")),) for prompt, rest in zip(prompts, completions, strict=True)]
        self.batch = CompletionBatch.of(samples, [True] * len(samples), model.device)
        self._embeddings = model.get_input_embeddings()

    def agrees(self, expected: Callable[[], RowsComputation], other: Callable[[], RowsComputation]) -> bool:
        """Whether two ways compute the same at the decisions, and the same gradient by the embeddings of tokens."""
        try:
            pairs = zip(self._found(expected), self._found(other), strict=True)
            return all(_are_near(*pair) for pair in pairs)
        except REFUSALS:
            return False

    def _found(self, make: Callable[[], RowsComputation]) -> tuple[Tensor, Tensor]:
        weight = self._embeddings.weight
        shift = torch.zeros(5, weight.shape[1], dtype=weight.dtype, device=weight.device, requires_grad=True)
        hook = self._embeddings.register_forward_hook(
            lambda _module, inputs, output: output + shift[inputs[0]].to(output.dtype)
        )
        try:
            with torch.enable_grad():
                rows = torch.arange(len(self.batch.rows), device=shift.device)
                computed = at_decisions(self.batch, make(), [rows])
                weights = torch.linspace(-1, 1, computed.numel(), device=computed.device, dtype=computed.dtype)
                return computed.detach(), torch.autograd.grad(computed.flatten() @ weights, shift)[0]
        finally:
            hook.remove()


def _are_near(expected: Tensor, found: Tensor) -> bool:
    # Many models norm, and turn by positions, in float32 whatever their dtype.
    eps = max(torch.finfo(dtype).eps for dtype in (expected.dtype, torch.float32))
    rounding = eps**0.5 * float(expected.abs().max())
    return torch.allclose(expected.float(), found.float(), rtol=0.0, atol=rounding, equal_nan=True)
