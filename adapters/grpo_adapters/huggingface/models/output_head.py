"""The head of a language model, as a function of hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class OutputHead:
    """What turns hidden states h into logits: x = scale · (W h + b), then cap · tanh(x / cap) where there is a cap.

    Attributes:
        weight: W, [V, H].
        bias: b, [V]; None for none.
        scale: what logits are multiplied by before the cap: Cohere's ``logit_scale``, 1 over Granite's
            ``logits_scaling``.
        soft_cap: Gemma 2's ``final_logit_softcapping``; None for none.

    References:
        Gemma Team 2024 (Gemma 2), arXiv:2408.00118, section 2.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None


def plain_token_log_probs(
    hidden: Tensor, head: OutputHead, targets: Tensor, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """What :func:`token_log_probs` computes, by way of all logits at once: the reference that tests compare with.

    Args:
        hidden: h, [D, H].
        head: what turns hidden states into logits.
        targets: tokens, int64 of shape [D], in [0, V).
        temperature: what the logits are divided by, after the cap.
        with_entropy: whether to compute the entropy.

    Returns:
        Log-probs in nats, [D], and the entropies in nats, [D], or None.

    Example:
        >>> plain_token_log_probs(torch.zeros(1, 3), OutputHead(torch.eye(3)), torch.tensor([2]), with_entropy=True)
        (tensor([-1.0986]), tensor([1.0986]))
    """
    check_shapes(hidden, head, targets)
    return log_probs_of_logits(logits_of(hidden, head), targets, temperature=temperature, with_entropy=with_entropy)


def logits_of(hidden: Tensor, head: OutputHead) -> Tensor:
    """The logits [D, V] of hidden states [D, H], float64 where these are, else float32."""
    logits = functional.linear(hidden, head.weight, head.bias)
    logits = logits.to(result_dtype(logits.dtype))
    if head.scale != 1:
        logits = logits * head.scale
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


def log_probs_of_logits(
    logits: Tensor, targets: Tensor, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of the targets and entropies, as :func:`plain_token_log_probs` gives them, of logits [D, V]."""
    logits = logits.to(result_dtype(logits.dtype))
    all_log_probs = torch.log_softmax(logits if temperature == 1 else logits / temperature, -1)
    entropy = -(all_log_probs.exp() * all_log_probs).sum(-1) if with_entropy else None
    return all_log_probs.gather(1, targets.unsqueeze(1)).squeeze(1), entropy


def check_shapes(hidden: Tensor, head: OutputHead, targets: Tensor) -> None:
    """Raise ValueError unless ``hidden`` is [D, H], the weight [V, H] and ``targets`` D tokens of V."""
    size = head.weight.shape[0]
    if hidden.dim() != 2 or head.weight.shape[1:] != hidden.shape[1:] or targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden states {list(hidden.shape)}, weight {list(head.weight.shape)} and targets {list(targets.shape)} "
            "do not agree: expected [D, H], [V, H] and [D], one row of hidden states for each target"
        )
    if len(targets):
        lowest, highest = torch.stack(targets.aminmax()).tolist()
        if lowest < 0 or highest >= size:
            raise ValueError(
                f"targets must be tokens in [0, {size}), the rows of the head's weight, got {lowest} to {highest}: "
                "leave out positions that hold no token, such as padding or labels of -100"
            )


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of results: float32 or better."""
    return torch.float64 if dtype == torch.float64 else torch.float32
