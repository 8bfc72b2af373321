"""How the next token is drawn."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from grpo import FrozenModel, NonFiniteError

TopP = Annotated[float, Field(gt=0, le=1)]


class SamplingConfig(FrozenModel):
    """How completions are sampled. Filters apply in the order of the attributes, each to what the one before left.

    Attributes:
        temperature: logits are divided by it, when tokens are drawn and when log-probs are computed; 0 takes the
            likeliest token, which is for evaluation, since such a policy cannot be trained.
        top_k: only the k likeliest tokens are drawn; None for all.
        top_p: only the likeliest tokens that together reach this probability are drawn (nucleus sampling).
        min_p: only tokens with at least this fraction of the likeliest one's probability are drawn; None for all.
        max_new_tokens: a completion is cut there.
        stop_strings: a completion ends where its text contains one of them, which stays part of it.
        with_log_probs: completions tell the log-probs that their tokens were drawn with, after all filters. Then a
            :class:`grpo.ImportanceCorrection` weights the loss of a token by the probability of all that the filters
            left, which is that of the policy over that of the sampling, and at most 1.

    References:
        top-p: Holtzman et al. 2020, arXiv:1904.09751; min-p: Nguyen et al. 2024, arXiv:2407.01082.

    Example:
        >>> SamplingConfig(temperature=0.7, max_new_tokens=256).top_p
        1.0
    """

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: PositiveInt | None = None
    top_p: TopP = 1.0
    min_p: TopP | None = None
    max_new_tokens: PositiveInt = 64
    stop_strings: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    with_log_probs: bool = False


def draw_tokens(logits: Tensor, sampling: SamplingConfig, generator: torch.Generator | None = None) -> Tensor:
    """A token for each row of logits.

    Args:
        logits: [B, V].
        sampling: how to draw.
        generator: to draw with, on the device of the logits.

    Returns:
        Token ids, int64 of shape [B].

    Raises:
        NonFiniteError: if logits are NaN or infinite.

    Example:
        >>> draw_tokens(torch.tensor([[0.0, 9.0, 1.0]]), SamplingConfig(temperature=0.0))
        tensor([1])
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = next_token_probabilities(logits, sampling)
    is_bad = probabilities[:, 0].isnan()  # a softmax is all numbers or none
    if is_bad.any():
        row = int(is_bad.nonzero()[0, 0])
        raise NonFiniteError(
            f"the model's logits for sequence {row} of {len(logits)} are NaN or infinite, so that no token can be "
            f"drawn: its weights have left the range of {logits.dtype}, or were never in it"
        )
    cumulative = cumulative_sums(probabilities)
    total = cumulative[:, -1:]
    # One number a row, and the token whose part of the cumulative probability it falls into: never one without any.
    drawn = torch.rand(total.shape, generator=generator, device=total.device) * total
    drawn = drawn.minimum(total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, drawn, right=True).squeeze(1)


def drawn_log_probs(logits: Tensor, tokens: Tensor, sampling: SamplingConfig) -> Tensor:
    """Log-probs that tokens [B] were drawn with from logits [B, V], nats, [B]; 0 where the likeliest was taken.

    Example:
        >>> drawn_log_probs(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([1]), SamplingConfig(top_k=2)).exp()
        tensor([0.3750])
    """
    if sampling.temperature == 0:
        return torch.zeros(len(logits), device=logits.device)
    return next_token_probabilities(logits, sampling).gather(1, tokens.unsqueeze(1)).squeeze(1).log()


def next_token_probabilities(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """Probabilities that tokens are drawn with, [B, V], from logits [B, V].

    Example:
        >>> next_token_probabilities(torch.tensor([[0.5, 0.3, 0.2]]).log(), SamplingConfig(top_k=2))
        tensor([[0.6250, 0.3750, 0.0000]])
    """
    logits = logits.float() if sampling.temperature == 1 else logits.float() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True, stable=True)
        likelier = cumulative_sums(ordered) - ordered
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, likelier >= sampling.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.min_p is not None:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def cumulative_sums(probabilities: Tensor) -> Tensor:
    """Sums of the probabilities so far, [B, V], the same at every call: on CUDA those of fixed-point numbers."""
    return fixed_point_sums(probabilities) if probabilities.is_cuda else probabilities.cumsum(-1)


def fixed_point_sums(probabilities: Tensor) -> Tensor:
    """Sums of the probabilities so far, each rounded down to a multiple of 2^-40, float64 of shape [B, V].

    Sums of integers do not depend on the order that a GPU adds them up in.
    """
    return probabilities.double().mul(2**40).long().cumsum(-1).double().mul(2**-40)
