"""A minimal policy seen as one whose actions are made of decisions, so that the core handles one kind only."""

from __future__ import annotations

from typing import Any, Generic

import torch
from typing_extensions import TypeIs

from grpo.data._protocols import missing_methods, require_methods
from grpo.data.action_batches import PairBatch
from grpo.data.batches import own_copy
from grpo.data.evaluation import Evaluation
from grpo.data.segments import Segments
from grpo.models._checks import check_parameters
from grpo.models.policy import ActionsT, PolicyModel, SequentialPolicy, StatesT


class PairwisePolicy(Generic[StatesT, ActionsT]):
    """A minimal policy seen as a :class:`SequentialPolicy`: every action is one decision.

    The core upgrades a minimal policy once, at construction, and from then on handles one kind only.
    """

    def __init__(self, policy: PolicyModel[StatesT, ActionsT], role: str = "policy") -> None:
        self.policy = policy
        self.role = role
        self.generate_actions = policy.generate_actions
        self.get_log_probabilities = policy.get_log_probabilities
        self.get_parameters = policy.get_parameters
        self.train = policy.train
        self.eval = policy.eval
        self.to = policy.to

    def encode_actions(self, states: StatesT, actions: ActionsT) -> PairBatch:
        """The pairs as they are."""
        return PairBatch(states, actions, Segments(len(actions), 1, device_of(self.policy, self.role)))

    def evaluate_actions(self, batch: PairBatch) -> Evaluation:
        """The minimal policy's log-probs, entropy unknown."""
        return Evaluation(self.policy.get_log_probabilities(own_copy(batch.states), own_copy(batch.actions)))


def is_sequential(policy: object) -> TypeIs[SequentialPolicy[Any, Any, Any]]:
    """Whether a policy has the methods of a :class:`SequentialPolicy`, its own or those of what it wraps."""
    return not missing_methods(policy, PolicyModel) and not missing_methods(policy, SequentialPolicy)


def as_sequential(policy: PolicyModel[Any, Any], role: str = "policy") -> SequentialPolicy[Any, Any, Any]:
    """The policy itself where it is a :class:`SequentialPolicy`, else a wrapper around it; ``role`` names it in errors.

    Raises:
        TypeError: if it is not a policy; the message names every method that is missing.
    """
    require_methods(policy, PolicyModel, role)
    return policy if is_sequential(policy) else PairwisePolicy(policy, role)


def device_of(policy: PolicyModel[Any, Any], role: str = "policy") -> torch.device:
    """Device of the policy's first parameter that has data; the CPU where none has."""
    parameters = check_parameters(policy.get_parameters(), role).values()
    return next((tensor.device for tensor in parameters if not tensor.is_meta), torch.device("cpu"))
