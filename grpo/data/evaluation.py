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

    Example:
        >>> import torch
        >>> drawn_from = torch.distributions.Categorical(torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
        >>> evaluation = Evaluation(drawn_from.log_prob(torch.tensor([0, 1])), drawn_from.entropy())
        >>> evaluation.log_probs.exp(), evaluation.values is None
        (tensor([0.5000, 0.7500]), True)
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

    Example:
        >>> import torch
        >>> values = torch.tensor([1.0, 2.0, 3.0])  # two decisions until a termination, one that was cut short
        >>> estimates = ValueEstimates(values, next_values=torch.tensor([2.0, 0.0, 4.0]))
        >>> 1.0 + estimates.next_values - estimates.values  # how far each was off, for rewards of 1
        tensor([ 2., -1.,  2.])
    """

    values: Tensor
    next_values: Tensor
