"""Checks of what an objective returns, or a surrogate in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from grpo.data._checks import irregularity
from grpo.data._protocols import type_name
from grpo.data.decisions import Terms
from grpo.data.segments import Segments
from grpo.models._checks import check_decision_values
from grpo.models._masks import describe, is_dense

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
    "first_approx_kl",
    "policy_kl",
    "num_unscored",
    "num_groups_resampled",
    "num_groups_zero_std",
    "frac_truncated",
}


def check_terms(
    terms: object, rows: Segments, locate: Callable[[int], str], *, requires_gradient: bool, unit: str = "decision"
) -> Terms:
    """An objective's loss in float32 or better, finite, and its metrics: one entry a decision each, or a pair."""
    if not isinstance(terms, Terms):
        raise TypeError(f"objective returned a {type_name(terms)}, expected grpo.Terms(loss, metrics)")
    loss = check_decision_values("objective", "a loss", terms.loss, rows, locate, unit)
    if requires_gradient and not loss.requires_grad:
        raise ValueError(
            "objective returned a loss without gradient: compute it from the evaluation's log-probs, without detach()"
        )
    if not isinstance(terms.metrics, Mapping) or not all(isinstance(name, str) for name in terms.metrics):
        raise TypeError(f"objective returned {terms.metrics!r} as metrics, expected tensors by name, {{}} for none")
    for name, values in terms.metrics.items():
        if name in RESERVED_METRICS:
            raise ValueError(f"objective returned a metric {name!r}, a name of the trainer's own: choose another")
        if not is_dense(values) or values.shape != (rows.total,) or values.device != loss.device or values.is_complex():
            raise ValueError(
                f"objective returned {_described(values)} as metric {name!r}, expected a tensor [{rows.total}] of real "
                f"numbers on {loss.device}, one entry a {unit}: the trainer averages it"
            )
    return terms if loss is terms.loss else replace(terms, loss=loss)


def _described(values: object) -> str:
    if not isinstance(values, Tensor):
        return type_name(values)
    kind = irregularity(values)
    if kind is not None:
        return f"a {kind} tensor"
    return f"{list(values.shape)}" if is_dense(values) and not values.is_complex() else f"a tensor {describe(values)}"


def check_surrogate(terms: object) -> Terms:
    """A surrogate must return Terms."""
    if not isinstance(terms, Terms) or not isinstance(terms.metrics, Mapping):
        raise TypeError(f"surrogate returned a {type_name(terms)}, expected grpo.Terms(loss, metrics), {{}} for none")
    return terms


def require_gradient(name: str, values: Tensor, log_probs: Tensor, otherwise: str) -> None:
    """Raise a ValueError where a part of an evaluation has no gradient though the log-probs do: it would never
    train.
    """
    if log_probs.requires_grad and not values.requires_grad:
        raise ValueError(
            f"the policy's evaluation has {name} without gradient, so that they would never train: compute them from "
            f"the tensors in get_parameters, without detach() or no_grad(), or {otherwise}"
        )
