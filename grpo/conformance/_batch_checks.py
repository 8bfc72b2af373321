"""Checks of what a policy may do besides: log-probs of its sampler, encoding by groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grpo.conformance._checks import FAILED, HALF_PRECISION_TOLERANCE
from grpo.data._protocols import missing_methods
from grpo.data.action_batches import ActionBatch
from grpo.data.batches import select_entries
from grpo.data.segments import Segments
from grpo.models._checks import check_action_batch, check_decision_values
from grpo.models.policy import EncodesGroups

if TYPE_CHECKING:
    from grpo.conformance._policy_checks import PolicyChecks


def check_sampling_log_probs(checks: PolicyChecks, batch: ActionBatch, log_probs: Tensor) -> None:
    """Where the batch tells the log-probs that actions were drawn with, they are the policy's."""
    told = getattr(batch, "sampling_log_probs", None)
    source, locate = "the batch of encode_actions", "decision {}".format
    if told is None or not checks.holds(
        check_decision_values, source, "sampling_log_probs", told, batch.samples, locate
    ):
        return
    gap = (told.double() - log_probs).abs()
    if (gap > HALF_PRECISION_TOLERANCE).any():
        worst = int(gap.argmax())
        checks.add(
            f"sampling_log_probs of the batch are not the policy's: {told[worst].item():.4g} for decision {worst}, "
            f"where evaluate_actions gives {log_probs[worst].item():.4g}: whoever samples draws from another "
            f"distribution (temperature, weights), or tells the wrong one"
        )


def check_encoding_of_groups(checks: PolicyChecks, actions: Any, expected: Tensor) -> None:
    """encode_groups, where there is one, against get_log_probabilities; groups may differ in size."""
    if missing_methods(checks.model, EncodesGroups):
        return
    num_states = len(checks.states)
    sizes = [len(actions) // num_states] * num_states
    for lengths in (sizes, [*sizes[:-1], sizes[-1] - 1] if sizes[-1] > 1 else sizes):
        groups, own = Segments.of_lengths(lengths), torch.arange(sum(lengths))
        states = select_entries(checks.states, torch.arange(num_states))
        batch = checks.call("encode_groups", states, select_entries(actions, own), groups)
        if batch is FAILED or not checks.holds(check_action_batch, batch, groups.total, "encode_groups"):
            return
        evaluation = checks.evaluate(batch, batch.rows)
        if evaluation is None:
            continue
        if not checks.close(batch.samples.sum(evaluation.log_probs.double()), expected[: groups.total]):
            checks.add(
                "samples from encode_groups have other log-probs, summed over decisions, than from "
                "get_log_probabilities: action i answers the state groups.ids[i]"
            )
            return
