"""Statistical tests of samples against the log-probs that a policy gives them."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from grpo.conformance._values import Identity, value_of

SIGNIFICANCE = 1e-6
NUM_SCORES = 32
NUM_DIRECTIONS = 4
MAX_STANDARD_ERRORS = 7.0


def frequency_problem(actions: Any, log_probs: Tensor, tolerance: float) -> str | None:
    """Pearson's chi-squared test of how often actions of one state came.

    Actions that were expected at least five times are counted one by one, all others together.

    Args:
        actions: N actions sampled in one state.
        log_probs: what the policy gives them, [N], nats.
        tolerance: how exact the log-probs are.

    Returns:
        What is wrong, None if nothing is.
    """
    num_samples = len(log_probs)
    names = [value_of(action) for action in actions]
    if any(isinstance(name, Identity) for name in names):
        warnings.warn("frequencies were not checked: actions have no __eq__ and __hash__ to count by", stacklevel=6)
        return None
    counts = Counter(names)
    expected = {name: num_samples * value for name, value in zip(names, log_probs.exp().tolist(), strict=True)}
    total = sum(expected.values()) / num_samples
    if total > 1 + 10 * tolerance:
        return (
            f"probabilities of {len(counts)} different sampled actions sum to {total:.4g}, more than 1: if they are "
            f"densities, pass discrete=False"
        )
    often = [name for name in counts if expected[name] >= 5]
    if not often:
        warnings.warn("frequencies were not checked: hardly any action came twice, raise num_samples", stacklevel=5)
        return None
    others_came = num_samples - sum(counts[name] for name in often)
    others_expected = max(num_samples - sum(expected[name] for name in often), 0.5)
    statistic = sum((counts[name] - expected[name]) ** 2 / expected[name] for name in often)
    statistic += (others_came - others_expected) ** 2 / others_expected
    p_value = torch.special.gammaincc(torch.tensor(len(often) / 2), torch.tensor(statistic / 2)).item()
    if p_value >= SIGNIFICANCE:
        return None
    worst = max(often, key=lambda name: abs(counts[name] - expected[name]))
    return (
        f"actions are not sampled as often as their log-probs say: {worst!r} came {counts[worst]} times of "
        f"{num_samples}, expected about {expected[worst]:.0f} (p = {p_value:.1g})"
    )


def mean_score_problem(scores: Tensor) -> str | None:
    """Student's t-test of the mean of the score function, which is 0 over samples of the policy.

    Args:
        scores: averages of ∇log π over samples, [B, P], P the number of parameters.

    Returns:
        What is wrong, None if nothing is.
    """
    directions = torch.randn(scores.shape[1], NUM_DIRECTIONS, generator=torch.Generator().manual_seed(0))
    along = scores.double() @ directions.double()
    standard_error = along.std(0) / len(along) ** 0.5
    distance = (along.mean(0) / standard_error.clamp(min=1e-12)).abs().max().item()
    if distance <= MAX_STANDARD_ERRORS:
        return None
    return (
        f"actions are not sampled from the density that their log-probs say: the mean of the score function is "
        f"{distance:.1f} standard errors away from 0"
    )
