"""What takes the place of -A log π in the loss.

They are pure functions per decision, with a small class around each for an objective to take.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

import torch
from pydantic import PositiveFloat, model_validator
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.config._frozen_model import FrozenModel
from grpo.config.grpo import check_dual_clip
from grpo.config.schedules import ScheduledFraction, ScheduledNonNegative, at_step
from grpo.data.decisions import Decisions, Terms
from grpo.data.needs import NOTHING, Needs
from grpo.data.segments import Segments
from grpo.divergences.estimators import kl_k3, kl_of_log_ratio, log_probability_ratio


def probability_ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """ρ = π/π_old, with the log-ratio clamped to ±20; the gradient is 0 beyond.

    Args:
        log_probs: log π(a|s) under the policy being optimised, [D], nats.
        old_log_probs: the same under the policy that sampled, [D].

    Returns:
        ρ of each decision, [D], above 0.

    Example:
        >>> probability_ratio(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -1.0]))
        tensor([1., 1.])
    """
    return log_probability_ratio(log_probs, old_log_probs).exp()


def sample_probability_ratio(log_probs: Tensor, old_log_probs: Tensor, samples: Segments) -> Tensor:
    """GSPO's ratio, the geometric mean over a sample's decisions, exp(mean_t log ρ_t), at each of them.

    Args:
        log_probs: log π(a|s) under the policy being optimised, [D], nats.
        old_log_probs: the same under the policy that sampled, [D].
        samples: the D decisions cut into samples.

    Returns:
        [D], equal within a sample.

    References:
        Zheng et al. 2025 (GSPO), arXiv:2507.18071, eq. 7.

    Example:
        >>> sample_probability_ratio(torch.tensor([0.5, 1.5]), torch.zeros(2), Segments(1, 2))
        tensor([2.7183, 2.7183])
    """
    return geometric_mean_ratio(log_probability_ratio(log_probs, old_log_probs), samples)


def geometric_mean_ratio(log_ratio: Tensor, samples: Segments) -> Tensor:
    """The geometric mean of a sample's ratios at each of its decisions, [D]."""
    return samples.expand(samples.mean(log_ratio).exp())


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Tensor:
    """Pessimistic surrogate of PPO, -min(ρA, clip(ρ, 1 - ε_low, 1 + ε_high)A), per decision.

    Args:
        ratio: ρ, [D].
        advantages: A, [D].
        clip_low: ε_low, in [0, 1].
        clip_high: ε_high, at least 0.
        dual_clip: an upper bound δ > 1 + ε_high on ρ where A < 0, without which the loss has none; None for none.

    Returns:
        The loss of each decision, [D], to be minimised.

    References:
        Schulman et al. 2017, arXiv:1707.06347, eq. 7; asymmetric bounds: Yu et al. 2025, arXiv:2503.14476; dual clip:
        Ye et al. 2020, arXiv:1912.09729.

    Example:
        >>> ratio, advantages = torch.tensor([1.5, 1.5, 0.5, 9.0]), torch.tensor([1.0, -1.0, -1.0, -1.0])
        >>> clipped_surrogate(ratio, advantages, clip_low=0.2, clip_high=0.25, dual_clip=3.0)
        tensor([-1.2500,  1.5000,  0.8000,  3.0000])
    """
    return _clipped_loss(ratio, advantages, clip_low, clip_high, dual_clip)[0]


def _clipped_loss(
    ratio: Tensor,
    advantages: Tensor,
    clip_low: float | Tensor,
    clip_high: float | Tensor,
    dual_clip: float | None,
) -> tuple[Tensor, Tensor]:
    """The loss of :func:`clipped_surrogate`, and whether it is that of the clipped ratio, bool [D].

    clip(ρ)A is below ρA only where ρ is beyond the end of the range that A pushes it to: min(ρA, clip(ρ)A) is
    min(ρA, max((1 - ε_low)A, (1 + ε_high)A)).
    """
    if dual_clip is not None:
        ratio = ratio.clamp(max=dual_clip)
    losses = -advantages
    unclipped, bound = losses * ratio, torch.minimum(losses * (1 - clip_low), losses * (1 + clip_high))
    is_clipped = unclipped.detach() < bound
    return torch.where(is_clipped, bound, unclipped), is_clipped


def clipped_importance_surrogate(log_probs: Tensor, ratio: Tensor, advantages: Tensor, *, max_ratio: float) -> Tensor:
    """CISPO's surrogate, -sg(min(ρ, ρ_max)) A log π: the weight is clipped, the gradient of no decision is lost.

    Args:
        log_probs: log π(a|s) under the policy being optimised, [D], nats.
        ratio: ρ, [D]; no gradient flows through it.
        advantages: A, [D].
        max_ratio: ρ_max > 0.

    Returns:
        The loss of each decision, [D], to be minimised.

    References:
        MiniMax 2025 (CISPO), arXiv:2506.13585, eq. 4.

    Example:
        >>> clipped_importance_surrogate(torch.tensor([-2.0]), torch.tensor([9.0]), torch.tensor([1.0]), max_ratio=4.0)
        tensor([8.])
    """
    return -ratio.detach().clamp(max=max_ratio) * advantages * log_probs


def score_function_surrogate(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE's surrogate, -A log π, whose gradient is the score function times the advantage.

    Args:
        log_probs: log π(a|s), [D], nats.
        advantages: A, [D].

    Returns:
        The loss of each decision, [D], to be minimised.

    References:
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".

    Example:
        >>> score_function_surrogate(torch.tensor([-2.0]), torch.tensor([3.0]))
        tensor([6.])
    """
    return -advantages * log_probs


@runtime_checkable
class Surrogate(Protocol):
    """Anything that turns log-probs and decisions into a loss for each decision.

    It may have an attribute ``needs`` (:class:`grpo.Needs`), which says whether minibatches must hold whole samples,
    say.
    """

    def __call__(self, log_probs: Tensor, decisions: Decisions, /) -> Terms:
        """The loss of each decision, [D], from ``log_probs`` [D] in nats."""
        ...


CLIP_METRICS = ("clip_fraction", "clip_fraction_low", "clip_fraction_high")


def old_or_current(log_probs: Tensor, decisions: Decisions) -> Tensor:
    """Log-probs of the policy that sampled, [D]: where it is the one being evaluated, its own without gradient."""
    return log_probs.detach() if decisions.old_log_probs is None else decisions.old_log_probs


def old_policy_metrics(log_probs: Tensor, decisions: Decisions) -> dict[str, Tensor]:
    """``approx_kl``, the k3 estimate of KL(π_old‖π), [D]: how far the policy has moved from the one that sampled."""
    log_probs = log_probs.detach()
    if decisions.old_log_probs is None:
        return {"approx_kl": torch.zeros_like(log_probs)}
    return {"approx_kl": kl_k3(decisions.old_log_probs, log_probs)}


class ClippedSurrogate(FrozenModel):
    """PPO's and GRPO's surrogate, :func:`clipped_surrogate`, with a ratio for every decision.

    Attributes:
        clip_low: ε_low, in [0, 1], or a schedule of it.
        clip_high: ε_high, at least 0, or a schedule of it; DAPO's is 0.28.
        dual_clip: bound on the ratio where A < 0, above 1 + ε_high; None for none.

    Raises:
        ValueError: if a bound is out of its range.

    Example:
        >>> old_log_probs, log_probs = torch.tensor([0.4, 0.4]).log(), torch.tensor([0.6, 0.6]).log()
        >>> decisions = Decisions(torch.tensor([1.0, -1.0]), old_log_probs, None, Segments(2, 1))
        >>> terms = ClippedSurrogate(clip_high=0.28)(log_probs, decisions)
        >>> terms.loss, terms.metrics["clip_fraction"]
        (tensor([-1.2800,  1.5000]), tensor([ True, False]))
    """

    clip_low: ScheduledFraction = 0.2
    clip_high: ScheduledNonNegative = 0.2
    dual_clip: float | None = None
    needs: ClassVar[Needs] = NOTHING

    @model_validator(mode="after")
    def _check_dual_clip(self) -> Self:
        check_dual_clip(self.dual_clip, self.clip_high)
        return self

    def ratio(self, log_ratio: Tensor, decisions: Decisions) -> Tensor:
        """The ratio that is clipped, [D]."""
        return log_ratio.exp()

    def __call__(self, log_probs: Tensor, decisions: Decisions) -> Terms:
        """The loss of each decision, with ``clip_fraction`` and ``approx_kl``."""
        advantages = decisions.advantages
        log_ratio = log_probability_ratio(log_probs, old_or_current(log_probs, decisions))
        ratio = self.ratio(log_ratio, decisions)
        if decisions.old_log_probs is None:  # the ratio is 1, there is nothing to clip
            zeros = torch.zeros_like(advantages)
            return Terms(-advantages * ratio, dict.fromkeys(("approx_kl", *CLIP_METRICS), zeros))
        clip_low, clip_high = at_step(self.clip_low, decisions.step), at_step(self.clip_high, decisions.step)
        loss, clipped = _clipped_loss(ratio, advantages, clip_low, clip_high, self.dual_clip)
        high = clipped & (advantages > 0)
        low = clipped > high
        if self.dual_clip is not None:
            clipped = clipped | ((ratio.detach() > self.dual_clip) & (advantages < 0))
        metrics = {"clip_fraction": clipped, "clip_fraction_low": low, "clip_fraction_high": high}
        return Terms(loss, {"approx_kl": kl_of_log_ratio(log_ratio.detach())} | metrics)


class SampleClippedSurrogate(ClippedSurrogate):
    """GSPO's surrogate: one ratio for the whole sample, :func:`sample_probability_ratio`, clipped as PPO's is.

    Attributes:
        clip_low: ε_low, the paper's 3e-4: a mean of log-ratios moves far less than a single one.
        clip_high: ε_high, the paper's 4e-4.
        dual_clip: bound on the ratio where A < 0, above 1 + ε_high; None for none.

    Example:
        >>> old_log_probs, log_probs = torch.tensor([-1.0, -1.0]), torch.tensor([-0.5, -1.5])
        >>> decisions = Decisions(torch.ones(2), old_log_probs, None, Segments(1, 2))  # one sample of two decisions
        >>> SampleClippedSurrogate()(log_probs, decisions).loss, ClippedSurrogate()(log_probs, decisions).loss
        (tensor([-1., -1.]), tensor([-1.2000, -0.6065]))
    """

    clip_low: ScheduledFraction = 3e-4
    clip_high: ScheduledNonNegative = 4e-4
    needs: ClassVar[Needs] = replace(NOTHING, whole_samples=True)

    def ratio(self, log_ratio: Tensor, decisions: Decisions) -> Tensor:
        """The geometric mean of a sample's ratios at each of its decisions, [D]."""
        return geometric_mean_ratio(log_ratio, decisions.samples)


class ClippedImportanceSurrogate(FrozenModel):
    """CISPO's surrogate, :func:`clipped_importance_surrogate`.

    Attributes:
        max_ratio: bound on the importance weight, above 0.

    Example:
        >>> decisions = Decisions(torch.tensor([1.0]), torch.tensor([0.1]).log(), None, Segments(1, 1))
        >>> log_probs = torch.tensor([0.9]).log().requires_grad_()
        >>> terms = ClippedImportanceSurrogate(max_ratio=5.0)(log_probs, decisions)
        >>> torch.autograd.grad(terms.loss.sum(), log_probs)  # a ratio of 9 counts as 5, and not as none
        (tensor([-5.]),)
    """

    max_ratio: PositiveFloat = 5.0
    needs: ClassVar[Needs] = NOTHING

    def __call__(self, log_probs: Tensor, decisions: Decisions) -> Terms:
        """The loss of each decision, with ``clip_fraction``, where the weight was bounded, and ``approx_kl``."""
        old_log_probs = old_or_current(log_probs, decisions)
        ratio = probability_ratio(log_probs.detach(), old_log_probs)
        loss = clipped_importance_surrogate(log_probs, ratio, decisions.advantages, max_ratio=self.max_ratio)
        clipped = (ratio > self.max_ratio).to(ratio.dtype)
        return Terms(loss, {"clip_fraction": clipped} | old_policy_metrics(log_probs, decisions))


class ScoreFunctionSurrogate(FrozenModel):
    """REINFORCE's surrogate, :func:`score_function_surrogate`.

    Example:
        >>> from grpo import Evaluation, GRPOObjective
        >>> objective = GRPOObjective(surrogate=ScoreFunctionSurrogate())
        >>> objective(Evaluation(torch.tensor([-2.0])), Decisions(torch.tensor([3.0]), None, None, Segments(1, 1))).loss
        tensor([6.])
    """

    needs: ClassVar[Needs] = NOTHING

    def __call__(self, log_probs: Tensor, decisions: Decisions) -> Terms:
        """The loss of each decision, with ``approx_kl``."""
        loss = score_function_surrogate(log_probs, decisions.advantages)
        return Terms(loss, old_policy_metrics(log_probs, decisions))
