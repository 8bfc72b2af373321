"""What a policy says of the D decisions of a batch, flat over D."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy says of the D decisions of a batch.

    Attributes:
        log_probs: log π(a|s) of each decision, [D], nats, differentiable.
        entropy: entropy of the distribution that each decision was drawn from, [D], nats, differentiable; None where
            the policy does not know it.
        values: V(s), the return expected from each decision on, [D], differentiable; None without a critic.
    """

    log_probs: Tensor
    entropy: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ValueEstimates:
    """What a critic expects at each of the D decisions of a batch and right after it.

    Attributes:
        values: V(s_t), [D].
        next_values: V(s_{t+1}) of the true successor, [D]: 0 where the episode terminated, the successor's value where
            it was merely cut short.
    """

    values: Tensor
    next_values: Tensor
