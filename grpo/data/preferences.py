"""Pairs of actions of which one was preferred."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from grpo.data._checks import check_states, require_strided
from grpo.data._equality import are_equal
from grpo.data._protocols import type_name

StateT = TypeVar("StateT")
ActionT = TypeVar("ActionT")


@dataclass(frozen=True, slots=True)
class Preference(Generic[StateT, ActionT]):
    """Two actions given to one state, of which one was preferred.

    A policy gets the states of several pairs stacked where all of them are tensors of one shape, and as a list
    otherwise; the actions likewise. So a policy on tensors needs tensors here, and one on tensors of many sizes must
    be ready for sizes that agree.

    Attributes:
        state: what both answer.
        chosen: the preferred action.
        rejected: the other one.
        reference_log_probs: log π_ref of the chosen and of the rejected action, nats, where they are known beforehand
            (:func:`grpo.with_reference_log_probs`); None to have the trainer's reference policy asked, which it is
            for all pairs of a step if one of them is without.

    Example:
        >>> Preference("What is 6 times 7?", chosen="42", rejected="48").chosen
        '42'
    """

    state: StateT
    chosen: ActionT
    rejected: ActionT
    reference_log_probs: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class PairLogProbs:
    """What an objective knows of P pairs: log-probs of whole actions, sums over their decisions.

    Attributes:
        chosen: log π of the chosen actions, [P], nats, differentiable.
        rejected: log π of the rejected actions, [P].
        reference_chosen: log π_ref of the chosen actions, [P]; 0 without a reference.
        reference_rejected: log π_ref of the rejected actions, [P].
        chosen_lengths: decisions of each chosen action, [P].
        rejected_lengths: decisions of each rejected action, [P].
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor
    rejected_lengths: Tensor

    @property
    def chosen_log_ratio(self) -> Tensor:
        """Δ of the chosen actions, [P], nats."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_log_ratio(self) -> Tensor:
        """Δ of the rejected actions, [P], nats."""
        return self.rejected - self.reference_rejected

    @property
    def margin(self) -> Tensor:
        """Δ of the chosen less Δ of the rejected actions, [P], nats."""
        return self.chosen_log_ratio - self.rejected_log_ratio


Preferences = Sequence[Preference[Any, Any]]


def check_preferences(preferences: Any) -> Preferences:
    """Preferences must be at least one, each with two actions that differ.

    Raises:
        TypeError: if one is something else, or lacks a field.
        ValueError: if there is none, an action is empty, both actions of a pair are the same, or reference log-probs
            are not two finite numbers.
    """
    if isinstance(preferences, Preference):
        raise TypeError("preferences is a Preference, expected a batch of them: put it in a list")
    check_states(preferences, "preferences", reads_by_index=False)
    checked: list[Any] = list(preferences)
    for index, preference in enumerate(checked):
        if not isinstance(preference, Preference):
            raise TypeError(f"preference {index} is {_described(preference)}, expected a {EXPECTED}")
        for field in ("chosen", "rejected"):
            action = getattr(preference, field)
            if action is None:
                raise TypeError(f"preference {index} has no {field} action (None), expected a {EXPECTED}")
            _require_strided(index, field, action)
            if _is_empty(action):
                raise ValueError(
                    f"preference {index} has an empty {field} action, {action!r}, expected at least one decision: "
                    f"leave the pair out"
                )
        _require_strided(index, "state", preference.state)
        if are_equal(preference.chosen, preference.rejected):
            raise ValueError(
                f"preference {index} has the same action as chosen and as rejected, {_shortened(preference.chosen)}: "
                f"nothing can be learnt from it, leave the pair out"
            )
        known = preference.reference_log_probs
        if known is not None and not _are_two_numbers(known):
            raise ValueError(
                f"preference {index} has reference_log_probs {_shortened(known)}, expected two finite numbers, for the "
                f"chosen and the rejected action: grpo.with_reference_log_probs computes them"
            )
    return checked


EXPECTED = "grpo.Preference(state, chosen, rejected)"


def _require_strided(index: int, field: str, value: object) -> None:
    if isinstance(value, Tensor):
        require_strided(f"preference {index} has as {field}", value)


def _described(preference: object) -> str:
    if not isinstance(preference, Mapping):
        return f"a {type_name(preference)}"
    missing = [field for field in ("chosen", "rejected") if field not in preference]
    lacks = f" without {' and '.join(missing)}" if missing else ""
    return f"a row with the columns {sorted(map(str, preference))}{lacks}"


def _is_empty(action: Any) -> bool:
    if isinstance(action, Tensor):
        return action.numel() == 0
    return hasattr(action, "__len__") and getattr(action, "shape", None) != () and len(action) == 0


def _are_two_numbers(values: Any) -> bool:
    if not isinstance(values, Sequence) or len(values) != 2:
        return False
    return all(isinstance(value, Real) and math.isfinite(value) for value in values)


def _shortened(action: object) -> str:
    text = repr(action)
    return text if len(text) <= 60 else f"{text[:60]}..."


def paired_states(preferences: Preferences) -> Any:
    """The state of each sample, 2P entries: every pair's twice; tensors of one shape are stacked."""
    return _stacked([preference.state for preference in preferences for _ in range(2)])


def paired_actions(preferences: Preferences) -> Any:
    """The actions of all pairs, 2P entries, chosen and rejected in turn; tensors of one shape are stacked."""
    actions = [action for preference in preferences for action in (preference.chosen, preference.rejected)]
    return _stacked(actions)


def _stacked(entries: list[Any]) -> Any:
    if all(isinstance(entry, Tensor) for entry in entries) and len({entry.shape for entry in entries}) == 1:
        return torch.stack(entries)
    return entries
