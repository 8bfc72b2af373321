"""Estimators of the divergence KL(π‖π_ref) from samples of π.

With d = log π_ref(a) - log π(a), all three have the divergence, or nearly that, as their expectation over a ~ π; they
differ in variance, in sign, and in what their gradient does when they are part of a loss.

References:
    Schulman 2020, "Approximating KL divergence".
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import hardtanh

from grpo.config.grpo import KLEstimator

MAX_LOG_RATIO = 20.0


def log_probability_ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """log(π/π_old) clamped to ±20, so that its exponential stays finite; the gradient is 0 beyond."""
    return hardtanh(log_probs - old_log_probs, -MAX_LOG_RATIO, MAX_LOG_RATIO)  # backward one operation, clamp has four


def kl_k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """k1 = -d: unbiased, of high variance, negative half of the time.

    As a loss it needs the importance correction: the expectation of its plain gradient is 0.

    Args:
        log_probs: log π(a|s), [D], nats.
        reference_log_probs: log π_ref(a|s), [D], nats.

    Returns:
        The estimate at each decision, [D], nats.

    Example:
        >>> import torch
        >>> kl_k1(torch.tensor([-1.0]), torch.tensor([-3.0]))
        tensor([2.])
    """
    return -log_probability_ratio(reference_log_probs, log_probs)


def kl_k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """k2 = d²/2: of low variance, never negative, biased, but its plain gradient is that of the divergence.

    Args:
        log_probs: log π(a|s), [D], nats.
        reference_log_probs: log π_ref(a|s), [D], nats.

    Returns:
        The estimate at each decision, [D], nats.

    Example:
        >>> import torch
        >>> kl_k2(torch.tensor([-1.0]), torch.tensor([-3.0]))
        tensor([2.])
    """
    return log_probability_ratio(reference_log_probs, log_probs).square() / 2


def kl_k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """k3 = e^d - d - 1: unbiased, of low variance, never negative; GRPO's choice.

    Args:
        log_probs: log π(a|s), [D], nats.
        reference_log_probs: log π_ref(a|s), [D], nats.

    Returns:
        The estimate at each decision, [D], nats.

    References:
        Shao et al. 2024, arXiv:2402.03300, eq. 4.

    Example:
        >>> import torch
        >>> kl_k3(torch.tensor([0.0]), torch.tensor([1.0]))
        tensor([0.7183])
    """
    return kl_of_log_ratio(log_probability_ratio(reference_log_probs, log_probs))


def kl_of_log_ratio(log_ratio: Tensor) -> Tensor:
    """k3 of d itself, e^d - d - 1, [D]."""
    return log_ratio.expm1() - log_ratio


KL_ESTIMATORS: dict[KLEstimator, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
