"""Checks at the boundary to the user's code. Each error names the object, what was expected, what came, and the fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from grpo.decisions import Terms
from grpo.experience import ActionBatch, Evaluation, ValueEstimates
from grpo.masks import check_truncated
from grpo.protocols import type_name
from grpo.segments import Segments

RESERVED_METRICS = {
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "loss",
    "grad_norm",
    "learning_rate",
    "num_updates",
    "skipped_updates",
    "num_samples",
    "num_decisions",
    "num_pairs",
    "explained_variance",
    "policy_kl",
    "num_unscored",
    "num_groups_resampled",
    "num_groups_zero_std",
    "frac_truncated",
}


class NonFiniteError(ValueError):
    """A reward, log-prob, entropy, loss or gradient is NaN or infinite."""


def check_states(states: Any, name: str = "states") -> None:
    """States must be a batch with at least one entry."""
    if not _is_batch(states):
        raise TypeError(
            f"{name} is a {type_name(states)}, expected a batch: a list with an entry for each, "
            f"or a tensor whose first dimension counts them"
        )
    if len(states) == 0:
        raise ValueError(f"{name} is empty, expected at least one entry: there is nothing to learn from")


def check_groups(what: str, groups: Any, num_states: int, num_actions_per_state: int | None) -> None:
    """There must be one group for each state, of the number of actions asked for, or of one at least for None."""
    size = "one or more" if num_actions_per_state is None else str(num_actions_per_state)
    if isinstance(groups, Tensor) and num_actions_per_state is not None:
        if groups.shape[:2] != (num_states, num_actions_per_state):
            raise ValueError(
                f"{what} a tensor of shape {list(groups.shape)}, expected [{num_states}, {size}, ...]: "
                f"num_actions_per_state actions for each state"
            )
        return
    if not _is_batch(groups):
        raise TypeError(f"{what} a {type_name(groups)}, expected one sequence of actions for each state")
    if len(groups) != num_states:
        raise ValueError(f"{what} {len(groups)} groups, expected {num_states}: one group of actions for each state")
    for index, group in enumerate(groups):
        if not _is_batch(group):
            raise TypeError(
                f"{what} a {type_name(group)} for state {index}, expected a sequence of {size} actions: "
                f"nest the actions of a state in a list"
            )
        if len(group) != num_actions_per_state and (num_actions_per_state is not None or len(group) == 0):
            fix = "" if num_actions_per_state is None else ": sample as many as num_actions_per_state asks for"
            raise ValueError(f"{what} {len(group)} actions for state {index}, expected {size}{fix}")


def check_action_batch(batch: object, num_samples: int, source: str) -> ActionBatch:
    """``encode_actions`` must give a batch of as many samples as it was given."""
    parts = (getattr(batch, "samples", None), getattr(batch, "rows", None))
    if not all(isinstance(part, Segments) for part in parts) or not hasattr(batch, "select"):
        raise TypeError(
            f"{source} returned a {type_name(batch)}, expected a grpo.ActionBatch, with Segments as samples and rows: "
            f"grpo.TensorBatch is a ready one"
        )
    assert isinstance(batch, ActionBatch)
    if batch.samples.count != num_samples or batch.rows.total != batch.samples.total:
        raise ValueError(
            f"{source} returned {len(batch.samples)} samples of {batch.samples.total} decisions in rows of "
            f"{batch.rows.total}, expected {num_samples} samples and rows that hold the same decisions"
        )
    episodes = getattr(batch, "episodes", batch.samples)
    if episodes is not batch.samples and not (isinstance(episodes, Segments) and _cuts_within(episodes, batch.samples)):
        raise ValueError(
            f"{source} returned a batch with episodes {episodes!r}, expected Segments of its {batch.samples.total} "
            f"decisions in which no episode goes on from one sample to the next: cut them at the end of every sample"
        )
    check_truncated(batch, source)
    return batch


def _cuts_within(episodes: Segments, samples: Segments) -> bool:
    return episodes.total == samples.total and bool(torch.isin(samples.last, episodes.last).all())


def check_rewards(rewards: object, samples: Segments) -> Tensor:
    """Rewards as a detached tensor, [N] or [D], float32 or better."""
    return _check_values_of_samples("compute_rewards", rewards, samples)


def check_advantages(advantages: object, samples: Segments) -> Tensor:
    """An estimator's advantages, [N] or [D], as detached advantages of the decisions, [D]."""
    values = _check_values_of_samples("advantage_estimator", advantages, samples)
    return values if values.shape[0] == samples.total else samples.expand(values)


def check_value_targets(targets: object, samples: Segments) -> Tensor:
    """What an estimator says that the critic should have expected, detached, [D]."""
    values = _check_values_of_samples("advantage_estimator.value_targets", targets, samples)
    return values if values.shape[0] == samples.total else samples.expand(values)


def _check_values_of_samples(source: str, values: object, samples: Segments) -> Tensor:
    expected = f"[{samples.count}]"
    if samples.total != samples.count:
        expected += f" (one a sample) or [{samples.total}] (one a decision)"
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{source} returned a {type_name(values)}, expected a tensor of shape {expected}: "
            f"wrap it in torch.tensor(..., dtype=torch.float32)"
        )
    if values.ndim != 1 or values.shape[0] not in (samples.count, samples.total):
        raise ValueError(f"{source} returned shape {list(values.shape)}, expected {expected}{_squeeze_hint(values)}")
    _check_floating(source, values)
    _check_device(source, values, samples.device)
    values = full_precision(values.detach())
    if not _is_finite(values):
        index = int(torch.nonzero(~values.isfinite())[0])
        unit = "sample" if values.shape[0] == samples.count else "decision"
        raise NonFiniteError(f"{source} returned {values[index].item()} for {unit} {index}, expected finite values")
    return values


def check_evaluation(evaluation: object, rows: Segments, source: str, locate: Callable[[int], str]) -> Evaluation:
    """The evaluation of ``rows`` in float32 or better, with one finite entry a decision.

    Args:
        evaluation: what the policy returned.
        rows: the rows that it was given.
        source: the method that returned it, to name in errors.
        locate: tells where a decision of these rows comes from, to name in errors.
    """
    if not isinstance(evaluation, Evaluation):
        raise TypeError(f"{source} returned a {type_name(evaluation)}, expected a grpo.Evaluation(log_probs, entropy)")
    log_probs = _check_shape(source, "log-probs", evaluation.log_probs, rows)
    entropy, values = evaluation.entropy, evaluation.values
    named = {"log-probs": log_probs}
    if entropy is not None:
        named["an entropy"] = entropy = _check_shape(source, "an entropy", entropy, rows)
    if values is not None:
        named["values"] = values = _check_shape(source, "values", values, rows)
    parts = [part.detach() for part in named.values()]
    if not math.isfinite((torch.stack(parts) if len(parts) > 1 else parts[0]).sum().item()):
        for name, part in named.items():
            _check_finite(source, name, part, locate)
    return Evaluation(log_probs, entropy, values)


def _check_decision_values(
    source: str, name: str, values: object, rows: Segments, locate: Callable[[int], str], unit: str = "decision"
) -> Tensor:
    checked = _check_shape(source, name, values, rows, unit)
    if not math.isfinite(checked.detach().sum().item()):
        _check_finite(source, name, checked, locate)
    return checked


def _check_shape(source: str, name: str, values: object, rows: Segments, unit: str = "decision") -> Tensor:
    """One entry a unit, in float32 or better; the words of the error are put together only when it is raised."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{source} returned {name} of type {type_name(values)}, expected a tensor [{rows.total}]")
    if values.shape != (rows.total,):
        raise ValueError(
            f"{source} returned {name} of shape {list(values.shape)}, expected [{rows.total}], one a {unit}"
            f"{_squeeze_hint(values)}"
        )
    if not values.is_floating_point() or values.device != rows.device:
        _check_floating(f"{source} returned {name}", values)
        _check_device(f"{source} returned {name}", values, rows.device)
    return full_precision(values)


def _check_finite(source: str, name: str, values: Tensor, locate: Callable[[int], str]) -> None:
    finite = values.detach().isfinite()
    if not finite.all():
        position = int(torch.nonzero(~finite)[0])
        raise NonFiniteError(
            f"{source} returned {name} with {values[position].item()} for {locate(position)}, expected finite values"
        )


def check_values(estimates: object, batch: Segments, source: str, locate: Callable[[int], str]) -> ValueEstimates:
    """A critic's estimates in float32 or better, with finite entries for every decision of the ``batch``."""
    if not isinstance(estimates, ValueEstimates):
        raise TypeError(
            f"{source} returned a {type_name(estimates)}, expected grpo.ValueEstimates(values, next_values)"
        )
    return ValueEstimates(
        _check_decision_values(source, "values", estimates.values, batch, locate).detach(),
        _check_decision_values(source, "next_values", estimates.next_values, batch, locate).detach(),
    )


def check_gradient_connection(log_probs: Tensor, source: str) -> None:
    """Log-probs must depend on the parameters by autograd where there are any to train."""
    if not log_probs.requires_grad:
        raise ValueError(
            f"{source} returned log-probs without gradient while there are parameters to train: compute them from "
            f"the tensors in get_parameters, without detach() or no_grad()"
        )


def check_terms(
    terms: object, rows: Segments, locate: Callable[[int], str], *, requires_gradient: bool, unit: str = "decision"
) -> Terms:
    """An objective's loss in float32 or better, finite, and its metrics: one entry a decision each, or a pair."""
    if not isinstance(terms, Terms):
        raise TypeError(f"objective returned a {type_name(terms)}, expected grpo.Terms(loss, metrics)")
    loss = _check_decision_values("objective", "a loss", terms.loss, rows, locate, unit)
    if requires_gradient and not loss.requires_grad:
        raise ValueError(
            "objective returned a loss without gradient: compute it from the evaluation's log-probs, without detach()"
        )
    if not isinstance(terms.metrics, Mapping) or not all(isinstance(name, str) for name in terms.metrics):
        raise TypeError(f"objective returned {terms.metrics!r} as metrics, expected tensors by name, {{}} for none")
    for name, values in terms.metrics.items():
        if name in RESERVED_METRICS:
            raise ValueError(f"objective returned a metric {name!r}, a name of the trainer's own: choose another")
        if not isinstance(values, Tensor) or values.shape != (rows.total,) or values.device != loss.device:
            shape = list(values.shape) if isinstance(values, Tensor) else type_name(values)
            raise ValueError(
                f"objective returned {shape} as metric {name!r}, expected a tensor [{rows.total}], one entry a "
                f"{unit}: the trainer averages it"
            )
    return terms if loss is terms.loss else Terms(loss, terms.metrics)


def check_surrogate(terms: object) -> Terms:
    """A surrogate must return Terms."""
    if not isinstance(terms, Terms) or not isinstance(terms.metrics, Mapping):
        raise TypeError(f"surrogate returned a {type_name(terms)}, expected grpo.Terms(loss, metrics), {{}} for none")
    return terms


def full_precision(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they already are."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _is_finite(values: Tensor) -> bool:
    if math.isfinite(values.sum().item()):
        return True
    return bool(values.isfinite().all())


def _is_batch(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 0
    return not isinstance(value, str | Mapping) and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _check_floating(what: str, values: Tensor) -> None:
    if not values.is_floating_point():
        raise TypeError(f"{what} of dtype {values.dtype}, expected a floating-point tensor: call .float() on it")


def _check_device(what: str, values: Tensor, device: torch.device) -> None:
    if values.device != device:
        raise ValueError(f"{what} on device {values.device}, expected {device}: call .to({str(device)!r}) on it")


def _squeeze_hint(values: Tensor) -> str:
    if values.ndim == 2 and values.shape[-1] == 1:
        return ": squeeze the last dimension"
    return ""
