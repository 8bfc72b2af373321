"""What an advantage estimator or an objective needs, declared in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Needs:
    """What an estimator or an objective, or a part of one, reads; it declares it as its attribute ``needs``.

    What declares nothing, a plain function for instance, has the defaults: it is given whatever there is,
    ``old_log_probs`` only where several updates make them necessary.

    Attributes:
        critic: whether it reads values of a critic. True: the policy must have one; None: they are computed where it
            has one; False: they are not computed for it.
        reference: the same of log-probs of a reference policy.
        old_log_probs: whether it reads the log-probs of the policy that sampled even where a rollout is for a single
            update, whose first evaluation would tell them.
        value_targets: whether it needs to know what a critic should have expected, which the estimator then must tell.
        whole_samples: whether every minibatch must hold whole samples.
        adapts: whether its method ``adapt`` (:class:`grpo.Adapts`) is to be called at the end of each step; None:
            where it has one.
        step_kl: whether it wants to be told, as the metric ``policy_kl``, how far the step has moved the policy.
        all_samples: whether it looks at samples of other groups than a decision's own, so that several processes
            (:class:`grpo.World`) give it those of all. True: it does; False: it does not, or asks ``experience.world``
            for sums; None: an estimator may, an objective does not. An objective that does takes no micro-batches.
        group_size: actions of a state that it compares, at least.

    Example:
        >>> both = Needs(critic=True) | Needs(critic=False, reference=False, group_size=2)
        >>> both.critic, both.reference, both.group_size
        (True, None, 2)
    """

    critic: bool | None = None
    reference: bool | None = None
    old_log_probs: bool = False
    value_targets: bool = False
    whole_samples: bool = False
    adapts: bool | None = None
    step_kl: bool = False
    all_samples: bool | None = None
    group_size: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, may_be_none = getattr(self, field.name), field.default is None
            is_right = (
                isinstance(value, int) and not isinstance(value, bool) and value >= 1
                if field.name == "group_size"
                else isinstance(value, bool) or (may_be_none and value is None)
            )
            if not is_right:
                expected = "an integer of at least 1" if field.name == "group_size" else "True or False"
                raise TypeError(
                    f"Needs got {field.name}={value!r}, expected {expected}{' or None' if may_be_none else ''}; as a "
                    f"decorator it is written with what is needed, @Needs(critic=True)"
                )

    def __or__(self, other: Needs) -> Needs:
        """What two parts need together."""
        return Needs(
            critic=_either(self.critic, other.critic),
            reference=_either(self.reference, other.reference),
            old_log_probs=self.old_log_probs or other.old_log_probs,
            value_targets=self.value_targets or other.value_targets,
            whole_samples=self.whole_samples or other.whole_samples,
            adapts=_either(self.adapts, other.adapts),
            step_kl=self.step_kl or other.step_kl,
            all_samples=_either(self.all_samples, other.all_samples),
            group_size=max(self.group_size, other.group_size),
        )

    def __call__(self, function: FunctionT) -> FunctionT:
        """Declare the needs of a function, as a decorator.

        Example:
            >>> @Needs(critic=True, reference=False)
            ... def advantage_over_the_critic(experience):
            ...     return experience.decision_rewards - experience.values.values
            >>> needs_of(advantage_over_the_critic).critic
            True
        """
        function.needs = self  # type: ignore[attr-defined]
        return function


NOTHING = Needs(critic=False, reference=False, adapts=False, all_samples=False)


def needs_of(part: object) -> Needs:
    """What a part declares, the defaults where it declares nothing.

    Raises:
        TypeError: if its attribute ``needs`` is something else.
    """
    needs = getattr(part, "needs", None)
    if needs is None:
        return Needs()
    if not isinstance(needs, Needs):
        raise TypeError(f"{part!r} has needs={needs!r}, expected grpo.Needs(...), which says what it reads")
    return needs


def _either(one: bool | None, other: bool | None) -> bool | None:
    """The stronger of two: what must be there before what may, and that before what is not looked at."""
    if one or other:
        return True
    return False if one is False and other is False else None
