"""What an advantage estimator and an objective ask for, and whether it is there."""

from __future__ import annotations

from dataclasses import dataclass

from grpo.advantage_estimator import check_takes_experience
from grpo.config import TrainerConfig
from grpo.evaluator import Evaluator
from grpo.protocols import type_name


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is to be collected for an estimator and an objective.

    Attributes:
        values: whether the policy's critic is to be asked.
        reference: whether the reference policy, where there is one, is to evaluate the samples.
        old_log_probs: whether the log-probs of the policy that samples are to be noted even for a single update.
    """

    values: bool
    reference: bool
    old_log_probs: bool

    @classmethod
    def of(cls, estimator: object, objective: object) -> Requirements:
        """What the two say by their attributes."""
        return cls(
            values=_asks(estimator, "requires_values") or _asks(objective, "requires_values"),
            reference=_asks(estimator, "requires_reference") or _asks(objective, "requires_reference", default=True),
            old_log_probs=_asks(estimator, "requires_old_log_probs") or _asks(objective, "adapts_to_kl"),
        )


def _asks(part: object, name: str, *, default: bool = False) -> bool:
    return bool(getattr(part, name, default))


def check_requirements(
    config: TrainerConfig, evaluator: Evaluator, estimator: object, objective: object, *, has_reference: bool
) -> None:
    """What estimator and objective cannot do without must be there.

    Raises:
        TypeError: if something is missing that a model or the estimator should have.
        ValueError: if groups are too small, or there is no reference policy.
    """
    check_takes_experience("advantage_estimator", estimator)
    if isinstance(objective, type) or not callable(objective):
        raise TypeError(f"objective is {objective!r}, expected an instance or a function that can be called")
    for part in (estimator, objective):
        if _asks(part, "requires_values"):
            evaluator.require_critic(part)
    smallest = getattr(estimator, "minimum_group_size", 1)
    if config.group_size < smallest:
        raise ValueError(
            f"group_size is {config.group_size}, expected at least {smallest} for {estimator!r}: an "
            f"action is compared with the others of its group; raise group_size or pass another advantage_estimator"
        )
    if _asks(objective, "requires_values") and not hasattr(estimator, "value_targets"):
        raise TypeError(
            f"{type_name(objective)} trains a critic, but {estimator!r} does not tell it what to expect: "
            f"add a method value_targets(experience, advantages), or use grpo.GeneralizedAdvantage"
        )
    for part, instead in ((estimator, "pass the estimator in it"), (objective, "set kl_coefficient to 0")):
        if not has_reference and _asks(part, "requires_reference"):
            raise ValueError(
                f"{part!r} needs a reference policy, but there is none: pass "
                f"reference_policy=copy.deepcopy(policy), or {instead}"
            )
