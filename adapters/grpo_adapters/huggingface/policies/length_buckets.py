"""Rows of like lengths together, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

OVERHEAD_PER_LAYER = {"cpu": 5e7, "cuda": 5e10}
"""Floating-point operations that take as long as what a layer costs besides its arithmetic."""

MOST_TOKENS_ON_A_CPU = 1280
"""Beyond this, activations of a small model leave the caches, and a larger one gains nothing."""

SLOWNESS_OF_ATTENTION = 4
"""How much longer a floating-point operation of attention takes than one of a linear layer."""


def length_buckets(lengths: Tensor, overhead: float) -> list[Tensor]:
    """The rows sorted by length and cut where padding would cost more than another call of the model.

    On a CPU they are also cut after so many tokens that their activations would leave its caches.

    Args:
        lengths: tokens of each row, int64 of shape [K].
        overhead: what a call of the model costs besides its tokens, in tokens.

    Returns:
        Indices of rows, int64 tensors which together hold each row once; a single one in the order given where
        nothing has to be cut.

    Example:
        >>> length_buckets(torch.tensor([9, 100, 10, 98]), overhead=20)
        [tensor([1, 3]), tensor([2, 0])]
    """
    order = lengths.argsort(descending=True, stable=True)
    most = MOST_TOKENS_ON_A_CPU if lengths.device.type == "cpu" else float("inf")
    sizes: list[int] = []
    longest, padding = 0, 0
    for length in lengths[order].tolist():
        padding += longest - length
        if not sizes or padding > overhead or (sizes[-1] + 1) * longest > most:
            sizes.append(0)
            longest, padding = length, 0
        sizes[-1] += 1
    if len(sizes) == 1:
        return [torch.arange(len(lengths), device=lengths.device)]
    return list(order.split(sizes))


def packed_buckets(lengths: Tensor, most_tokens: int) -> list[Tensor]:
    """Rows as they come, as many together as have at most so many tokens; a longer one is alone.

    Example:
        >>> packed_buckets(torch.tensor([3, 2, 4, 9]), most_tokens=6)
        [tensor([0, 1]), tensor([2]), tensor([3])]
    """
    sizes: list[int] = []
    held = 0
    for length in lengths.tolist():
        held += length
        if not sizes or held > most_tokens:
            sizes.append(0)
            held = length
        sizes[-1] += 1
    return list(torch.arange(len(lengths), device=lengths.device).split(sizes))


def call_overhead(model: Any) -> float:
    """What a forward and backward pass of a model costs besides its tokens, in tokens; a rough estimate."""
    layers, _, parameters = _size(model)
    per_layer = OVERHEAD_PER_LAYER.get(model.device.type, OVERHEAD_PER_LAYER["cuda"])
    return float(layers * per_layer / (6 * parameters))


def attention_cost(model: Any) -> float:
    """What a token costs more for each token that it attends to, in tokens without attention; a rough estimate."""
    layers, width, parameters = _size(model)
    return SLOWNESS_OF_ATTENTION * 2 * layers * width / parameters


def _size(model: Any) -> tuple[int, int, int]:
    """Layers, width and parameters."""
    config = model.config.get_text_config()
    parameters = sum(parameter.numel() for parameter in model.base_model.parameters())
    return getattr(config, "num_hidden_layers", 1), getattr(config, "hidden_size", 0), max(parameters, 1)


def cost_of_calls(
    buckets: Sequence[Tensor], lengths: Tensor, attended: Tensor, *, overhead: float, per_attended: float
) -> float:
    """What the calls of a model for each bucket cost, in tokens without attention.

    Args:
        buckets: rows that are computed together.
        lengths: tokens of each row, int64 of shape [K].
        attended: tokens that each token of a row attends to, [K].
        overhead: of a call, in tokens.
        per_attended: what a token costs more for each token that it attends to.

    Example:
        >>> lengths = torch.tensor([9, 10, 100])
        >>> pair, single = torch.tensor([0, 1]), torch.tensor([2])
        >>> cost_of_calls([pair, single], lengths, lengths / 2, overhead=5.0, per_attended=0.1)
        640.0
    """
    longest = torch.stack([torch.stack((lengths[rows].max(), attended[rows].max())) for rows in buckets]).tolist()
    counts = [len(rows) for rows in buckets]
    costs: list[float] = [
        overhead + count * length * (1 + per_attended * reach)
        for count, (length, reach) in zip(counts, longest, strict=True)
    ]
    return sum(costs)
