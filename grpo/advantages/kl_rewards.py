"""The divergence from a reference policy in the rewards, in place of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grpo.advantages._checks import check_takes_experience
from grpo.advantages.estimator import AdvantageEstimate, AdvantageEstimator, estimate_of
from grpo.data.adapts import adapt
from grpo.data.experience import Experience
from grpo.data.needs import NOTHING, Needs, needs_of
from grpo.data.shared_segments import SharedSegments
from grpo.data.state import load_states_of, states_of
from grpo.divergences.coefficients import KLCoefficient


def kl_penalized_rewards(
    rewards: Tensor, old_log_probs: Tensor, reference_log_probs: Tensor, *, coefficient: float
) -> Tensor:
    """Rewards less what the divergence costs, r - β (log π_old - log π_ref), per decision.

    Args:
        rewards: r, [D].
        old_log_probs: log π_old(a|s) under the policy that sampled, [D], nats.
        reference_log_probs: log π_ref(a|s), [D], nats.
        coefficient: β, at least 0.

    Returns:
        [D]; no log-ratio is clamped, since nothing is raised to its power.

    References:
        Ouyang et al. 2022 (InstructGPT), arXiv:2203.02155, eq. 2; Ziegler et al. 2019, arXiv:1909.08593, eq. 2.

    Example:
        >>> rewards, old_log_probs = torch.tensor([0.0, 1.0]), torch.tensor([-1.0, -3.0])
        >>> kl_penalized_rewards(rewards, old_log_probs, torch.tensor([-2.0, -2.0]), coefficient=0.5)
        tensor([-0.5000,  1.5000])
    """
    return torch.sub(rewards, old_log_probs - reference_log_probs, alpha=coefficient)


class KLPenalizedRewards:
    """Takes the divergence from a reference policy off the rewards, then lets another estimator give credit.

    The rewards are :func:`kl_penalized_rewards`. So :class:`grpo.GeneralizedAdvantage` and :class:`grpo.MonteCarlo`
    charge each decision for its own part of the divergence, and :class:`grpo.GroupRelative` a sample for the sum.

    Attributes:
        estimator: what gives credit for the penalised rewards.
        coefficient: β ≥ 0, or a coefficient that follows the divergence: an :class:`AdaptiveKLCoefficient` or a
            :class:`HorizonKLCoefficient`. It is told ``reward_kl`` at the end of each step that succeeded.

    Raises:
        TypeError: if the estimator is none.
        ValueError: if the coefficient is negative or not finite.

    Example:
        >>> from grpo import MonteCarlo, PairBatch, Segments
        >>> batch = PairBatch(["s"], ["ab"], Segments(1, 2))
        >>> log_probs, reference_log_probs = torch.tensor([-1.0, -1.0]), torch.tensor([-3.0, -2.0])
        >>> rewards = torch.tensor([5.0])
        >>> experience = Experience(["s"], ["ab"], batch, Segments(1, 1), rewards, log_probs, reference_log_probs)
        >>> estimate = KLPenalizedRewards(MonteCarlo(), coefficient=0.5).estimate(experience)
        >>> estimate.advantages, estimate.metrics["reward_kl"]
        (tensor([3.5000, 4.5000]), 1.5)
    """

    def __init__(self, estimator: AdvantageEstimator, coefficient: float | KLCoefficient = 0.05) -> None:
        check_takes_experience("estimator", estimator)
        if not isinstance(coefficient, KLCoefficient) and not (
            isinstance(coefficient, float | int) and 0 <= coefficient < float("inf")
        ):
            raise ValueError(
                f"KLPenalizedRewards got coefficient={coefficient!r}, expected a finite number of at least 0, "
                f"or a coefficient that adapts, such as grpo.AdaptiveKLCoefficient(target=0.01)"
            )
        self.estimator = estimator
        self.coefficient = coefficient

    def __repr__(self) -> str:
        return f"KLPenalizedRewards({self.estimator!r}, coefficient={self.coefficient!r})"

    @property
    def needs(self) -> Needs:
        """Those of the inner estimator, and the log-probs of both policies."""
        follows = isinstance(self.coefficient, KLCoefficient)
        log_probs = replace(NOTHING, reference=True, adapts=follows, old_log_probs=True)
        return needs_of(self.estimator) | log_probs

    def __call__(self, experience: Experience) -> Tensor:
        """The inner estimator's advantages for the penalised rewards."""
        return self.estimate(experience).advantages

    def estimate(self, experience: Experience) -> AdvantageEstimate:
        """What the inner estimator makes of the penalised rewards, with ``reward_kl`` and ``reward_kl_coefficient``."""
        old, reference = _log_probs_of(experience)
        beta = float(self.coefficient.value if isinstance(self.coefficient, KLCoefficient) else self.coefficient)
        rewards = kl_penalized_rewards(experience.decision_rewards, old, reference, coefficient=beta)
        estimate = estimate_of(self.estimator, replace(experience, rewards=rewards))
        everything = SharedSegments.whole(len(old), old.device, experience.world)
        total, count = everything.sums((old - reference).double(), torch.ones_like(old, dtype=torch.float64))
        metrics = {"reward_kl": (total / count).item(), "reward_kl_coefficient": beta}
        return replace(estimate, metrics={**estimate.metrics, **metrics})

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        """Tell the coefficient the divergence of the step, mean log π_old - log π_ref, where it wants to know."""
        adapt(self.estimator, experience, metrics)
        if isinstance(self.coefficient, KLCoefficient):
            num_samples = int(metrics.get("num_samples", len(experience.samples)))
            self.coefficient.update(metrics["reward_kl"], num_samples)

    def state_dict(self) -> dict[str, Any]:
        """What changes in the course of a training: that of the coefficient and of the inner estimator."""
        return states_of(self._parts)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        load_states_of(self._parts, state_dict)

    @property
    def _parts(self) -> dict[str, object]:
        return {"coefficient": self.coefficient, "estimator": self.estimator}


def _log_probs_of(experience: Experience) -> tuple[Tensor, Tensor]:
    """Those of the policy that sampled and of the reference, which must be there."""
    if experience.old_log_probs is None or experience.reference_log_probs is None:
        raise ValueError(
            "experience has no old_log_probs or no reference_log_probs, which KLPenalizedRewards needs: collect it "
            "with the collector of the trainer that uses it"
        )
    return experience.old_log_probs, experience.reference_log_probs
