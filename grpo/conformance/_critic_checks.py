"""Checks of a policy's critic."""

from __future__ import annotations

import torch

from grpo.conformance._checks import FAILED, Checks
from grpo.data._protocols import missing_methods
from grpo.data.action_batches import ActionBatch
from grpo.data.evaluation import Evaluation
from grpo.models._checks import check_values
from grpo.models.policy import ActorCriticPolicy


@torch.no_grad()
def check_critic(checks: Checks, batch: ActionBatch, tolerance: float) -> None:
    """The critic's estimates are as they must be, and those that evaluations hold."""
    if missing_methods(checks.model, ActorCriticPolicy):
        return
    estimates = checks.call("estimate_values", batch)
    source = "policy.estimate_values"
    if estimates is FAILED or not checks.holds(
        check_values, estimates, batch.samples, source, lambda position: f"decision {position}"
    ):
        return
    evaluation = checks.call("evaluate_actions", batch)
    if not isinstance(evaluation, Evaluation):
        return
    if evaluation.values is None:
        checks.add(
            "evaluate_actions returns no values though there is estimate_values: return "
            "Evaluation(log_probs, entropy, values)"
        )
    elif evaluation.values.shape != estimates.values.shape or not torch.allclose(
        evaluation.values.double(), estimates.values.double(), rtol=tolerance, atol=tolerance
    ):
        checks.add("estimate_values gives decisions other values than evaluate_actions: both must be the critic's")
