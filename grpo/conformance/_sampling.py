"""Statistical tests of samples against the log-probs that a policy gives them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

SIGNIFICANCE = 1e-6
STEP_SIZES = [4.0**exponent for exponent in range(-5, 3)]
SAMPLES_PER_CALL = 256
LogProbsOf = Callable[[Tensor], Tensor | None]
"""Log π of the samples at some indices, [K], float64, nats; None where it cannot tell."""


def frequency_problem(
    names: Sequence[Hashable], log_probs: Tensor, *, tolerance: float, significance: float = SIGNIFICANCE
) -> tuple[str | None, int]:
    """Pearson's chi-squared test of how often actions came that were drawn from one distribution.

    Actions that were expected at least five times are counted one by one, all others together.

    Args:
        names: N sampled actions, those equal that are the same.
        log_probs: what the policy gives them, [N], nats.
        tolerance: how exact the log-probs are.
        significance: how likely a false alarm may be.

    Returns:
        What is wrong, None if nothing is; and how many of the samples were counted one by one.
    """
    num_samples, counts = len(names), Counter(names)
    expected = {name: num_samples * value for name, value in zip(names, log_probs.exp().tolist(), strict=True)}
    total = sum(expected.values()) / num_samples
    if total > 1 + 10 * tolerance:
        return (
            f"probabilities of {len(counts)} different actions sampled in one state sum to {total:.4g}, more than 1: "
            f"if log-probs are densities, pass discrete=False; if a part of each action was given to the policy and "
            f"not decided by it, say which, given_part=lambda action: ...; otherwise they are too high"
        ), 0
    often = [name for name in counts if expected[name] >= 5]
    num_counted = sum(counts[name] for name in often)
    if not often:
        return None, 0
    others_expected = max(num_samples - sum(expected[name] for name in often), 0.5)
    statistic = sum((counts[name] - expected[name]) ** 2 / expected[name] for name in often)
    statistic += (num_samples - num_counted - others_expected) ** 2 / others_expected
    p_value = torch.special.gammaincc(torch.tensor(len(often) / 2), torch.tensor(statistic / 2)).item()
    if p_value >= significance:
        return None, num_counted
    worst = max(often, key=lambda name: abs(counts[name] - expected[name]))
    return (
        f"actions are not sampled as often as their log-probs say: {worst!r} came {counts[worst]} times of "
        f"{num_samples}, expected about {expected[worst]:.0f} (p = {p_value:.1g})"
    ), num_counted


def likelihood_ratio_problem(
    log_probs_of: LogProbsOf,
    num_samples: int,
    parameters: Sequence[Tensor],
    *,
    tolerance: float,
    kind: str,
) -> tuple[str | None, bool]:
    """Split likelihood-ratio test: do other parameters explain samples better that they were not fitted to?

    The parameters are moved along the gradient of the log-likelihood of the first third of the samples, as far as helps
    the second third most. Were the last third drawn as the log-probs say, its likelihood ratio, π_moved/π, would be 1
    in expectation, whatever the others led to, so that it exceeds 1/α with a probability of at most α (Markov's
    inequality). Nothing is assumed of how many samples there are, how often one comes, or whether later ones depend on
    earlier ones, as fragments of running environments do.

    Args:
        log_probs_of: log π of the samples at these indices, [K], float64, nats; None where it cannot tell.
        num_samples: N, in the order in which they were drawn.
        parameters: those of the policy, moved and put back.
        tolerance: how exact the log-probs are.
        kind: what log-probs are of, to name in the error.

    Returns:
        What is wrong, None if nothing is; and whether it could be tested: log-probs must depend on the parameters.

    References:
        Wasserman, Ramdas & Balakrishnan 2020, "Universal inference".
    """
    first, second, last = torch.arange(num_samples).tensor_split(3)
    direction = _gradient(log_probs_of, first, parameters)
    if direction is None:
        return None, False
    values = [tensor.detach().clone() for tensor in parameters]
    try:
        size = _best_size(log_probs_of, second, parameters, values, direction)
        moved = _total(log_probs_of, last) if _move(parameters, values, direction, size) else None
    finally:
        _move(parameters, values, direction, 0.0)
    unmoved = _total(log_probs_of, last)
    if moved is None or unmoved is None:
        return None, True
    log_ratio = moved - unmoved - tolerance * len(last)
    if log_ratio < -math.log(SIGNIFICANCE):
        return None, True
    return (
        f"actions are not sampled from the {kind} that their log-probs say: with other parameters, fitted to some "
        f"of {num_samples} samples, the last third is exp({log_ratio:.0f}) times as likely (p < exp(-{log_ratio:.0f}))"
    ), True


@contextmanager
def told_apart(log_probs_of: LogProbsOf, num_pairs: int, parameters: Sequence[Tensor]) -> Iterator[bool]:
    """A block in which parameters make pairs of a state and an action likely; whether there are such.

    A policy that is new is nearly uniform in every state, so that thousands of samples would not show whether they are
    of another state or of another action.

    Args:
        log_probs_of: log π of the pairs.
        num_pairs: a pair of each state, with actions that differ.
        parameters: those of the policy, moved and put back.
    """
    pairs = torch.arange(num_pairs)
    direction = _gradient(log_probs_of, pairs, parameters)
    if direction is None:
        yield False
        return
    values = [tensor.detach().clone() for tensor in parameters]
    try:
        size = _best_size(log_probs_of, pairs, parameters, values, direction)
        yield _move(parameters, values, direction, size)
    finally:
        _move(parameters, values, direction, 0.0)


def _gradient(log_probs_of: LogProbsOf, indices: Tensor, parameters: Sequence[Tensor]) -> list[Tensor] | None:
    """Gradient of the log-likelihood, scaled to a norm of 1; None where there is none."""
    sums = [torch.zeros_like(tensor) for tensor in parameters]
    for part in indices.split(SAMPLES_PER_CALL):
        with torch.enable_grad():
            log_probs = log_probs_of(part)
        if log_probs is None or not log_probs.requires_grad:
            return None
        for own, gradient in zip(
            sums, torch.autograd.grad(log_probs.sum(), parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:
                own += gradient
    norm = math.sqrt(sum(own.double().square().sum().item() for own in sums))
    return [own / norm for own in sums] if 0 < norm < math.inf else None


def _best_size(
    log_probs_of: LogProbsOf,
    indices: Tensor,
    parameters: Sequence[Tensor],
    values: Sequence[Tensor],
    direction: Sequence[Tensor],
) -> float:
    """How far along the direction the log-likelihood is largest; 0 where no step helps."""
    best, largest = 0.0, _total(log_probs_of, indices)
    for size in STEP_SIZES:
        _move(parameters, values, direction, size)
        total = _total(log_probs_of, indices)
        if total is None or largest is None or not total > largest:
            break
        best, largest = size, total
    return best


@torch.no_grad()
def _move(parameters: Sequence[Tensor], values: Sequence[Tensor], direction: Sequence[Tensor], size: float) -> bool:
    """Set the parameters to their values and a step along the direction; whether it is a step."""
    for tensor, value, own in zip(parameters, values, direction, strict=True):
        tensor.copy_(value + size * own if size > 0 else value)
    return size > 0


def _total(log_probs_of: LogProbsOf, indices: Tensor) -> float | None:
    """Log-likelihood of the samples; None where it is not known or not finite: a step may lead anywhere."""
    total = 0.0
    for part in indices.split(SAMPLES_PER_CALL):
        try:
            with torch.enable_grad():
                log_probs = log_probs_of(part)
        except Exception:
            return None
        if log_probs is None:
            return None
        total += log_probs.detach().sum().item()
    return total if math.isfinite(total) else None
