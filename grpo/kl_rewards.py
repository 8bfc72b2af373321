"""The divergence from a reference policy in the rewards, in place of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from grpo.advantage_estimator import AdvantageEstimator, check_takes_experience
from grpo.experience import Experience
from grpo.kl_coefficients import KLCoefficient


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
        >>> KLPenalizedRewards(MonteCarlo(), coefficient=0.5)(experience)
        tensor([3.5000, 4.5000])
    """

    requires_reference: ClassVar[bool] = True
    requires_old_log_probs: ClassVar[bool] = True

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
        self._metrics: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"KLPenalizedRewards({self.estimator!r}, coefficient={self.coefficient!r})"

    @property
    def minimum_group_size(self) -> int:
        """That of the inner estimator."""
        return getattr(self.estimator, "minimum_group_size", 1)

    @property
    def requires_values(self) -> bool:
        """Whether the inner estimator needs a critic."""
        return getattr(self.estimator, "requires_values", False)

    @property
    def value_targets(self) -> Callable[[Experience, Tensor], Tensor]:
        """What the inner estimator, with the penalised rewards, has a critic expect; missing where it lacks it."""
        value_targets: Callable[[Experience, Tensor], Tensor] = self.estimator.value_targets  # type: ignore[attr-defined]
        return lambda experience, advantages: value_targets(self._penalized(experience), advantages)

    def __call__(self, experience: Experience) -> Tensor:
        """The inner estimator's advantages for the penalised rewards."""
        advantages = self.estimator(self._penalized(experience))
        self._metrics = {"reward_kl": reward_kl(experience), "reward_kl_coefficient": float(self._beta)}
        return advantages

    def get_metrics(self) -> Mapping[str, float]:
        """``reward_kl`` and ``reward_kl_coefficient`` of the last experience, and what the inner estimator reports."""
        inner: Callable[[], Mapping[str, float]] = getattr(self.estimator, "get_metrics", dict)
        return {**inner(), **self._metrics}

    def adapt_to_experience(self, experience: Experience) -> None:
        """Tell the coefficient the divergence of a step that succeeded, where it wants to know."""
        if hasattr(self.estimator, "adapt_to_experience"):
            self.estimator.adapt_to_experience(self._penalized(experience))
        if isinstance(self.coefficient, KLCoefficient):
            self.coefficient.update(reward_kl(experience), len(experience.samples))

    @property
    def _beta(self) -> float:
        return self.coefficient.value if isinstance(self.coefficient, KLCoefficient) else self.coefficient

    def _penalized(self, experience: Experience) -> Experience:
        old, reference = _log_probs_of(experience)
        rewards = kl_penalized_rewards(experience.decision_rewards, old, reference, coefficient=self._beta)
        return replace(experience, rewards=rewards)


def reward_kl(experience: Experience) -> float:
    """Mean over decisions of log π_old - log π_ref: KL(π_old‖π_ref) by k1, nats a decision."""
    old, reference = _log_probs_of(experience)
    return (old - reference).mean().item()


def _log_probs_of(experience: Experience) -> tuple[Tensor, Tensor]:
    """Those of the policy that sampled and of the reference, which must be there."""
    if experience.old_log_probs is None or experience.reference_log_probs is None:
        raise ValueError(
            "experience has no old_log_probs or no reference_log_probs, which KLPenalizedRewards needs: collect it "
            "with the collector of the trainer that uses it"
        )
    return experience.old_log_probs, experience.reference_log_probs
