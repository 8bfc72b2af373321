"""Whether a policy's actions are sampled as its log-probs say."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grpo.conformance._sampling import SIGNIFICANCE, LogProbsOf, frequency_problem, likelihood_ratio_problem, told_apart
from grpo.conformance._values import Identity, value_of
from grpo.data.batches import join_groups, repeat_entries, select_entries
from grpo.data.segments import Segments

if TYPE_CHECKING:
    from grpo.conformance._policy_checks import PolicyChecks

MAX_STATES = 3


def check_sampling(checks: PolicyChecks, num_samples: int, given_part: Callable[[Any], Any] | None) -> None:
    """Actions come as often as their log-probs say, in up to three states, or in all of them at once."""
    if checks.num_actions_per_state is not None:
        pairs = _sample_all(checks, num_samples)
        problem = None if pairs is None else _ratio_problem(checks, *pairs)[0]
        if problem is not None:
            checks.add(problem)
        return
    first = select_entries(checks.states, torch.arange(min(MAX_STATES, len(checks.states))))
    groups = _check_states(checks, first, num_samples, given_part)
    if groups is None or checks.problems or not checks.trainable:
        return
    with told_apart(_log_probs_of(checks, first, _one_of_each(groups)), len(first), checks.trainable) as is_moved:
        if is_moved and _check_states(checks, first, max(num_samples // 4, 1), given_part) is None:
            checks.problems = [f"{problem}; with parameters that tell the states apart" for problem in checks.problems]


def _check_states(checks: PolicyChecks, first: Any, num_samples: int, given_part: Callable[[Any], Any] | None) -> Any:
    """The groups of these states; None where something is wrong, which is noted."""
    groups = checks.generate(first, num_samples)  # of all at once, so that groups in another order are seen
    if groups is None:
        return None
    actions, places = join_groups(groups), torch.arange(len(first) * num_samples)
    for index, own in enumerate(places.split(num_samples)):
        state = select_entries(checks.states, torch.tensor([index]))
        found = len(checks.problems)
        _check_state(checks, repeat_entries(state, Segments(1, num_samples)), select_entries(actions, own), given_part)
        if len(checks.problems) > found:
            return None
    return groups


def _one_of_each(groups: Any) -> Any:
    """An action of each group, none of which an earlier one has where that can be."""
    taken: list[Hashable] = []
    chosen = []
    for group in groups:
        names = [value_of(action) for action in group]
        chosen.append(next((place for place, name in enumerate(names) if name not in taken), 0))
        taken.append(names[chosen[-1]])
    firsts = torch.tensor(chosen) + torch.arange(len(groups)) * len(groups[0])
    return select_entries(join_groups(groups), firsts)


def _sample_all(checks: PolicyChecks, num_samples: int) -> tuple[Any, Any] | None:
    """About so many samples of all states, asked for again and again; None where one is not as it must be."""
    assert checks.num_actions_per_state is not None
    per_call = len(checks.states) * checks.num_actions_per_state
    states = repeat_entries(checks.states, Segments(len(checks.states), checks.num_actions_per_state))
    calls = []
    for _ in range(max(num_samples // per_call, 2)):
        groups = checks.generate(checks.states, checks.num_actions_per_state)
        if groups is None:
            return None
        calls.append(join_groups(groups))
    return join_groups([states] * len(calls)), join_groups(calls)


def _check_state(checks: PolicyChecks, states: Any, actions: Any, given_part: Callable[[Any], Any] | None) -> None:
    """Frequencies where most actions come again and again; else whether other parameters explain them better."""
    problem, num_counted, has_names = None, 0, True
    if checks.discrete:
        names = [value_of(action) for action in actions]
        given = [None if given_part is None else value_of(given_part(action)) for action in actions]
        has_names = not any(isinstance(name, Identity) for name in (*names, *given))
        if has_names:
            with torch.no_grad():
                log_probs = checks.log_probs(states, actions)
            if log_probs is None:
                return
            problem, num_counted = _frequency_problem(names, given, log_probs, checks.tolerance)
    if problem is None and 2 * num_counted < len(actions):
        problem, was_tested = _ratio_problem(checks, states, actions)
        if checks.discrete and not was_tested and num_counted == 0:
            reason = "hardly any action came twice" if has_names else "actions have no __eq__ and __hash__ to count by"
            warnings.warn(f"frequencies were not checked: {reason}, and log-probs depend on no parameter", stacklevel=6)
    if problem is not None:
        checks.add(problem)


def _frequency_problem(
    names: Sequence[Hashable], given: Sequence[Hashable], log_probs: Tensor, tolerance: float
) -> tuple[str | None, int]:
    """What is wrong with the frequencies among those with the same given part, and how many were counted."""
    log_probs = log_probs.cpu()
    places: dict[Hashable, list[int]] = {}
    for place, part in enumerate(given):
        places.setdefault(part, []).append(place)
    found = [
        frequency_problem(
            [names[place] for place in own],
            log_probs[torch.tensor(own)],
            tolerance=tolerance,
            significance=SIGNIFICANCE / len(places),
        )
        for own in places.values()
    ]
    problems = [problem for problem, _ in found if problem is not None]
    return problems[0] if problems else None, sum(counted for _, counted in found)


def _ratio_problem(checks: PolicyChecks, states: Any, actions: Any) -> tuple[str | None, bool]:
    """What the split likelihood-ratio test finds, and whether it could be made."""
    if not checks.trainable:
        return None, False
    log_probs_of = _log_probs_of(checks, states, actions)
    kind = "distribution" if checks.discrete else "density"
    return likelihood_ratio_problem(log_probs_of, len(actions), checks.trainable, tolerance=checks.tolerance, kind=kind)


def _log_probs_of(checks: PolicyChecks, states: Any, actions: Any) -> LogProbsOf:
    def log_probs_of(indices: Tensor) -> Tensor | None:
        own = checks.model.get_log_probabilities(select_entries(states, indices), select_entries(actions, indices))
        return own.double() if isinstance(own, Tensor) and own.shape == indices.shape else None

    return log_probs_of
