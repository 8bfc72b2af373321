"""The policy's probabilities over those that the actions were drawn with."""

from __future__ import annotations

import torch
from torch import Tensor

from grpo.config.rollout import ImportanceCorrection
from grpo.data.segments import Segments
from grpo.data.shared_segments import SharedSegments
from grpo.distributed.world import ALONE, World
from grpo.divergences.estimators import kl_k3, log_probability_ratio


def importance_weights(
    log_probs: Tensor, sampling_log_probs: Tensor, samples: Segments, correction: ImportanceCorrection
) -> Tensor:
    """min(r, C), or r within [C_min, C] and 0 elsewhere, with r = π/π_sampler, without gradient.

    Args:
        log_probs: log π(a|s) under the policy at the start of the step, [D], nats.
        sampling_log_probs: the same under the distribution that the actions were drawn from, [D].
        samples: the D decisions cut into samples.
        correction: C, C_min, and whether r is of a decision or of a whole sample.

    Returns:
        The weight of each decision, [D]; equal within a sample where r is of a sample. Log-ratios are clamped to ±20.

    References:
        Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".

    Example:
        >>> log_probs, sampling_log_probs = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.1, 1.0]).log()
        >>> importance_weights(log_probs, sampling_log_probs, Segments(2, 1), ImportanceCorrection(max_ratio=2.0))
        tensor([2.0000, 0.5000])
    """
    ratio = _sampling_ratio(log_probs, sampling_log_probs, samples, correction)
    if correction.kind == "truncate":
        return ratio.clamp(max=correction.max_ratio)
    return torch.where(_is_outside(ratio, correction), 0.0, ratio)


def corrected_fraction(
    log_probs: Tensor,
    sampling_log_probs: Tensor,
    samples: Segments,
    correction: ImportanceCorrection,
    world: World = ALONE,
) -> float:
    """The part of all processes' decisions whose weight is cut off at C or masked, in [0, 1]; arguments as above."""
    outside = _is_outside(_sampling_ratio(log_probs, sampling_log_probs, samples, correction), correction).double()
    everything = SharedSegments.whole(len(outside), outside.device, world)
    total, count = everything.sums(outside, torch.ones_like(outside))
    return (total / count).item()


def _sampling_ratio(
    log_probs: Tensor, sampling_log_probs: Tensor, samples: Segments, correction: ImportanceCorrection
) -> Tensor:
    """π/π_sampler of each decision, [D], or of the sample that it is in."""
    log_ratio = (log_probs - sampling_log_probs).detach()
    if correction.per == "sample":
        log_ratio = samples.expand(samples.sum(log_ratio))
    return log_probability_ratio(log_ratio, torch.zeros_like(log_ratio)).exp()


def _is_outside(ratio: Tensor, correction: ImportanceCorrection) -> Tensor:
    return (ratio < correction.min_ratio) | (ratio > correction.max_ratio)


def effective_sample_size(weights: Tensor) -> Tensor:
    """(Σw)² / Σw², how many equally weighted entries are worth as much as these; D where all weigh the same.

    Args:
        weights: w, [D], at least 0.

    Returns:
        A number from 1 to D, of shape [].

    References:
        Kong 1992, "A note on importance sampling using standardized weights".

    Example:
        >>> effective_sample_size(torch.tensor([1.0, 1.0, 0.0]))
        tensor(2.)
    """
    return weights.sum().square() / weights.square().sum()


def sampling_metrics(log_probs: Tensor, sampling_log_probs: Tensor, world: World = ALONE) -> dict[str, float]:
    """How far the sampler is from the policy, by name of the metric."""
    log_ratio = log_probability_ratio(log_probs, sampling_log_probs)
    ratio = log_ratio.exp().double()
    columns = (log_ratio.abs(), kl_k3(sampling_log_probs, log_probs), ratio, ratio.square(), torch.ones_like(ratio))
    everything = SharedSegments.whole(len(ratio), ratio.device, world)
    gap, kl, total, squares, count = torch.cat(everything.sums(*(column.double() for column in columns))).tolist()
    return {
        "sampling/log_prob_gap": gap / count,
        "sampling/kl": kl / count,
        "sampling/max_ratio": everything.maximum(ratio).item(),
        "sampling/effective_sample_size": total**2 / squares,
    }
