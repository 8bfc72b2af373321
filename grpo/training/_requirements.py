"""Whether all is there that the parts of a trainer need."""

from __future__ import annotations

from typing import Any

from grpo.advantages._checks import check_takes_experience
from grpo.config.rollout import TrainerConfig
from grpo.data.needs import Needs, needs_of
from grpo.models._evaluator import Evaluator


def check_requirements(
    config: TrainerConfig, policy: Any, estimator: object, objective: object, *, has_reference: bool
) -> Needs:
    """What estimator and objective need together, all of which must be there.

    Raises:
        TypeError: if something is missing that the policy should have, or a part is none.
        ValueError: if groups are too small, or there is no reference policy.
    """
    check_takes_experience("advantage_estimator", estimator)
    if isinstance(objective, type) or not callable(objective):
        raise TypeError(f"objective is {objective!r}, expected an instance or a function that can be called")
    evaluator = Evaluator(policy)
    for part, instead in ((estimator, "pass the estimator in it"), (objective, "set kl_coefficient to 0")):
        needs = needs_of(part)
        if needs.critic:
            evaluator.require_critic(part)
        if needs.reference and not has_reference:
            raise ValueError(
                f"{part!r} needs a reference policy, but there is none: pass "
                f"reference_policy=copy.deepcopy(policy), or {instead}"
            )
    needs = needs_of(estimator) | needs_of(objective)
    if config.group_size < needs.group_size:
        raise ValueError(
            f"group_size is {config.group_size}, expected at least {needs.group_size} for {estimator!r}: an "
            f"action is compared with the others of its group; raise group_size or pass another advantage_estimator"
        )
    return needs
