"""What is minimised: a surrogate, a divergence from a reference policy, an entropy bonus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import ConfigDict, Field, NonNegativeFloat
from torch import Tensor
from typing_extensions import Protocol

from grpo.config._frozen_model import FrozenModel
from grpo.config.grpo import KLEstimator
from grpo.config.schedules import ScheduledNonNegative, at_step, largest
from grpo.data.adapts import adapt
from grpo.data.decisions import Decisions, Terms
from grpo.data.evaluation import Evaluation
from grpo.data.experience import Experience
from grpo.data.needs import NOTHING, Needs, needs_of
from grpo.data.state import load_states_of, states_of
from grpo.divergences.estimators import KL_ESTIMATORS, log_probability_ratio
from grpo.objectives._checks import check_surrogate, require_gradient
from grpo.objectives.surrogates import ClippedSurrogate, Surrogate, old_or_current


class Objective(Protocol):
    """Anything that turns an evaluation and what is known of its decisions into a loss for each decision.

    An attribute ``needs`` (:class:`grpo.Needs`) says what it reads; without one it is given whatever there is. What
    changes in it from step to step changes in a method ``adapt`` (``grpo.Adapts``), and is told by ``state_dict`` and
    ``load_state_dict``.

    Example:
        >>> def squared_advantage_regression(evaluation: Evaluation, decisions: Decisions) -> Terms:
        ...     error = evaluation.log_probs - decisions.advantages
        ...     return Terms(error.square(), {"absolute_error": error.detach().abs()})
    """

    def __call__(self, evaluation: Evaluation, decisions: Decisions, /) -> Terms:
        """The loss of each decision, [D], and metrics, [D] each."""
        ...


class GRPOObjective(FrozenModel):
    """surrogate + β KL(π‖π_ref) - c H, per decision.

    Attributes:
        surrogate: a :class:`grpo.Surrogate`, the library's or your own.
        kl_coefficient: β ≥ 0; above 0 a reference policy is needed.
        kl_estimator: :func:`grpo.kl_k1`, :func:`grpo.kl_k2` or :func:`grpo.kl_k3`.
        kl_importance_correction: multiply the estimator by the probability ratio, with gradient through both. It is
            that of the whole sample where the surrogate is a :class:`grpo.SampleClippedSurrogate`, as in TRL, and that
            of the decision otherwise, which alone makes the gradient unbiased.
        entropy_coefficient: c ≥ 0, or a schedule of it; above 0 the policy's evaluation must hold an entropy.

    References:
        Shao et al. 2024, arXiv:2402.03300; corrected estimator: DeepSeek-AI 2025, arXiv:2512.02556.

    Example:
        >>> import torch
        >>> from grpo import Segments
        >>> decisions = Decisions(torch.tensor([1.0]), None, torch.tensor([-1.0]), Segments(1, 1))
        >>> terms = GRPOObjective(kl_coefficient=0.5)(Evaluation(torch.tensor([-2.0])), decisions)
        >>> terms.loss, terms.metrics["kl"]
        (tensor([-0.6409]), tensor([0.7183]))
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    surrogate: Surrogate = Field(default_factory=ClippedSurrogate)
    kl_coefficient: NonNegativeFloat = 0.0
    kl_estimator: KLEstimator = "k3"
    kl_importance_correction: bool = False
    entropy_coefficient: ScheduledNonNegative = 0.0

    @property
    def needs(self) -> Needs:
        """A reference policy where a divergence from it is part of the loss, and what the surrogate asks for."""
        return needs_of(self.surrogate) | replace(NOTHING, reference=self.kl_coefficient > 0)

    def adapt(self, experience: Experience, metrics: Mapping[str, float]) -> None:
        """Tell the surrogate how a step of the trainer ended, where it wants to know."""
        adapt(self.surrogate, experience, metrics)

    def state_dict(self) -> dict[str, Any]:
        """What changes in the course of a training: the surrogate's state, where it has one."""
        return states_of({"surrogate": self.surrogate})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        load_states_of({"surrogate": self.surrogate}, state_dict)

    def __call__(self, evaluation: Evaluation, decisions: Decisions) -> Terms:
        """The loss of each decision; the surrogate's metrics, ``kl`` and ``entropy`` where they are known."""
        terms = check_surrogate(self.surrogate(evaluation.log_probs, decisions))
        loss, metrics = terms.loss, dict(terms.metrics)
        if self.kl_coefficient > 0:
            kl = self._kl(evaluation.log_probs, decisions)
            loss = torch.add(loss, kl, alpha=self.kl_coefficient)
            metrics["kl"] = kl.detach()
        if evaluation.entropy is not None:
            metrics["entropy"] = evaluation.entropy.detach()
        if largest(self.entropy_coefficient) > 0:
            if evaluation.entropy is None:
                raise ValueError(
                    f"entropy_coefficient={self.entropy_coefficient} needs an entropy, but the policy's evaluation has "
                    f"none: return Evaluation(log_probs, entropy) from evaluate_actions, or set it to 0"
                )
            require_gradient("entropy", evaluation.entropy, evaluation.log_probs, "set entropy_coefficient to 0")
            loss = _less(loss, evaluation.entropy, at_step(self.entropy_coefficient, decisions.step))
        return Terms(loss, metrics)

    def _kl(self, log_probs: Tensor, decisions: Decisions) -> Tensor:
        if decisions.reference_log_probs is None:
            raise ValueError(
                f"kl_coefficient={self.kl_coefficient} needs a reference policy, but there is none: "
                f"pass reference_policy=copy.deepcopy(policy) to the trainer, or set it to 0"
            )
        kl = KL_ESTIMATORS[self.kl_estimator](log_probs, decisions.reference_log_probs)
        if self.kl_importance_correction:
            log_ratio = log_probability_ratio(log_probs, old_or_current(log_probs, decisions))
            if isinstance(self.surrogate, ClippedSurrogate):
                return kl * self.surrogate.ratio(log_ratio, decisions)
            return kl * log_ratio.exp()
        return kl


def _less(loss: Tensor, bonus: Tensor, coefficient: float | Tensor) -> Tensor:
    """The loss minus a multiple of the bonus, in one operation where it can be."""
    if isinstance(coefficient, Tensor):
        return loss - coefficient * bonus
    return torch.sub(loss, bonus, alpha=coefficient)
