"""Whether all is there that the parts of a trainer need."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from grpo.advantages._checks import check_takes_experience
from grpo.config.rollout import TrainerConfig
from grpo.data._protocols import type_name
from grpo.data.adapts import adapts
from grpo.data.needs import Needs, needs_of
from grpo.data.state import is_stateful
from grpo.models._evaluator import Evaluator
from grpo.training._optimization import level_of_caller

FIXED = {"config", "policy", "reference_policy", "reward_model", "sampler", "world"}
REPLACEABLE = {"advantage_estimator", "objective"}


def check_requirements(
    config: TrainerConfig, policy: Any, estimator: object, objective: object, *, has_reference: bool
) -> Needs:
    """What estimator and objective need together, all of which must be there.

    Raises:
        TypeError: if something is missing that the policy should have, or a part is none.
        ValueError: if groups are too small, or there is no reference policy.

    Warns:
        UserWarning: if there is one that is not used.
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
                f"reference_policy={reference_from(policy)}, or {instead}"
            )
    if needs_of(objective).all_samples and config.micro_batch_size is not None:
        raise ValueError(
            f"{objective!r} looks at all samples of an optimiser step, and micro_batch_size={config.micro_batch_size} "
            f"would show it parts: leave micro_batch_size out"
        )
    needs = needs_of(estimator) | needs_of(objective)
    if config.group_size < needs.group_size:
        raise ValueError(
            f"group_size is {config.group_size}, expected at least {needs.group_size} for {estimator!r}: an "
            f"action is compared with the others of its group; raise group_size or pass another advantage_estimator"
        )
    if has_reference and needs.reference is False:
        warnings.warn(
            "reference_policy is not used: neither objective nor advantage_estimator reads it, set a kl_coefficient "
            "above 0",
            stacklevel=level_of_caller(),
        )
    return needs


def check_replacement(place: str, name: str, part: object, asked: Needs) -> None:
    """Raise an error if an attribute of a trainer is not to be replaced.

    Args:
        place: what is told of it.
        name: of the attribute.
        part: the new one.
        asked: what parts needed when the trainer was made, with the size of the groups that there are.

    Raises:
        AttributeError: if other parts of the trainer were made for it.
        ValueError: if the new one needs what was not asked for, or adapts.
    """
    instead = "make the trainer anew, and give it the state_dict() of this one to go on"
    if name in FIXED:
        raise AttributeError(f"{place} cannot be replaced, since the trainer's other parts were made for it: {instead}")
    if name not in REPLACEABLE:
        return
    needs = needs_of(part)
    more = [each.name for each in fields(Needs) if (getattr(needs, each.name) or 0) > (getattr(asked, each.name) or 0)]
    if adapts(part) or more:
        reason = "adapts from step to step" if adapts(part) else f"needs {more[0]}={getattr(needs, more[0])}"
        raise ValueError(f"{place} cannot be replaced by {part!r}, which {reason}: {instead}")


def reference_from(policy: object) -> str:
    """How a reference policy is made of a policy: by its own method, where it has one."""
    return "policy.reference()" if callable(getattr(policy, "reference", None)) else "copy.deepcopy(policy)"


def warn_of_untold_states(parts: Iterable[object]) -> None:
    """Warn of parts that change from step to step without telling how."""
    for part in parts:
        if not is_stateful(part):
            warnings.warn(
                f"{type_name(part)} changes from step to step, but does not tell its state: a failed step cannot put "
                f"it back, and no checkpoint holds it. Give it state_dict and load_state_dict",
                stacklevel=level_of_caller(),
            )
