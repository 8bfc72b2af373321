"""Ways in which what a model returns can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def set_at(index: int, value: float) -> Callable[[Tensor], Tensor]:
    """Put a value into one entry."""
    return lambda tensor: tensor.index_fill(0, torch.tensor([index]), value)


WRONG_LOG_PROBS: list[tuple[Callable[[Tensor], Any], type[Exception], str]] = [
    (lambda log_probs: log_probs.unsqueeze(1), ValueError, r"shape \[\d, 1\], expected \[\d\].*squeeze the last dim"),
    (lambda log_probs: log_probs[:-1], ValueError, r"expected \[\d\]"),
    (lambda log_probs: log_probs.exp().long(), TypeError, "dtype torch.int64"),
    (lambda log_probs: log_probs.tolist(), TypeError, "type list, expected a tensor"),
    (lambda log_probs: log_probs.detach(), ValueError, "without gradient while there are parameters to train"),
]
"""What breaks log-probs of samples or pairs alike, with the error and a part of its message."""
