"""What a policy must do, and what it may do besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import Protocol, TypeIs, runtime_checkable

from grpo.batches import Batch
from grpo.experience import ActionBatch, Evaluation, PairBatch, ValueEstimates
from grpo.protocols import missing_methods, require_methods
from grpo.segments import Segments

StatesT = TypeVar("StatesT", bound=Batch[Any])
ActionsT = TypeVar("ActionsT", bound=Batch[Any])
StatesT_contra = TypeVar("StatesT_contra", bound=Batch[Any], contravariant=True)
ActionBatchT = TypeVar("ActionBatchT", bound=ActionBatch)


@runtime_checkable
class PolicyModel(Protocol[StatesT_contra, ActionsT]):
    """Everything that a custom model must have to be trained. There is nothing to inherit.

    The two type parameters are the types of a batch: ``PolicyModel[list[str], list[str]]`` takes and gives
    lists of strings, ``PolicyModel[Tensor, Tensor]`` stacked tensors.

    Example:
        >>> class Coin:
        ...     def __init__(self):
        ...         self.logit = torch.zeros((), requires_grad=True)
        ...     def generate_actions(self, states, num_actions_per_state, **kwargs):
        ...         heads = torch.rand(len(states), num_actions_per_state) < self.logit.sigmoid()
        ...         return [["heads" if head else "tails" for head in row] for row in heads]
        ...     def get_log_probabilities(self, states, actions):
        ...         signs = torch.tensor([1.0 if action == "heads" else -1.0 for action in actions])
        ...         return torch.nn.functional.logsigmoid(signs * self.logit)
        ...     def get_parameters(self):
        ...         return {"logit": self.logit}
        ...     def train(self): ...
        ...     def eval(self): ...
        ...     def to(self, device): ...
        >>> isinstance(Coin(), PolicyModel)
        True
    """

    def generate_actions(self, states: StatesT_contra, num_actions_per_state: int, **kwargs: Any) -> Batch[ActionsT]:
        """Sample a group of actions for every state.

        Args:
            states: S states.
            num_actions_per_state: actions to sample for each, G.
            kwargs: whatever was given to ``trainer.step`` besides the states.

        Returns:
            S groups of G actions each, in the order of the states: nested lists, a list of tensors [G, ...], or a
            tensor [S, G, ...].
        """
        ...

    def get_log_probabilities(self, states: StatesT_contra, actions: ActionsT) -> Tensor:
        """Log-probability of each action given its state.

        Args:
            states: N states, one for each action.
            actions: N actions.

        Returns:
            log π(a|s), [N], nats, floating-point, differentiable in the parameters.
        """
        ...

    def get_parameters(self) -> Mapping[str, Tensor]:
        """The parameters by name, the very tensors that an optimiser is to change; empty where there are none."""
        ...

    def train(self) -> Any:
        """Enter training mode, as :meth:`torch.nn.Module.train` does."""
        ...

    def eval(self) -> Any:
        """Enter evaluation mode, as :meth:`torch.nn.Module.eval` does; sampling happens in it."""
        ...

    def to(self, device: Any) -> Any:
        """Move the parameters to a device, in place, as :meth:`torch.nn.Module.to` does."""
        ...


@runtime_checkable
class SequentialPolicy(PolicyModel[StatesT_contra, ActionsT], Protocol[StatesT_contra, ActionsT, ActionBatchT]):
    """A policy whose actions are made of several decisions, or that knows its entropy, or that encodes once a step."""

    def encode_actions(self, states: StatesT_contra, actions: ActionsT) -> ActionBatchT:
        """Make N samples ready for evaluation: tokenise, stack, pad. Called once a step, by the collector.

        Dynamic sampling with rewards per decision calls it once a round besides, to know whose they are.

        Args:
            states: N states, one for each action.
            actions: N actions.
        """
        ...

    def evaluate_actions(self, batch: ActionBatchT) -> Evaluation:
        """Log-probs of the batch's decisions, [D], and their entropy where known. Called for every minibatch.

        What is padded inside never reaches the evaluation: one entry a decision, no more.
        """
        ...


@runtime_checkable
class ActorCriticPolicy(
    SequentialPolicy[StatesT_contra, ActionsT, ActionBatchT], Protocol[StatesT_contra, ActionsT, ActionBatchT]
):
    """A policy with a critic: its evaluations hold ``values``, and it tells what to expect after each decision."""

    def estimate_values(self, batch: ActionBatchT) -> ValueEstimates:
        """What the critic expects at each decision and after it, [D] each. Called once a step, without gradient."""
        ...


@runtime_checkable
class ReportsMetrics(Protocol):
    """A model or an advantage estimator that has something of its own to report beside the trainer's metrics."""

    def get_metrics(self) -> Mapping[str, float]:
        """Metrics of the step that just ended, by name."""
        ...


@runtime_checkable
class FollowsData(Protocol):
    """A policy with statistics of what it has seen, which are not trained: running means of observations, say."""

    def update_statistics(self, batch: Any) -> None:
        """Take a batch into account. Called once, at the end of a step, so that within a step nothing moves."""
        ...


class PairwisePolicy(Generic[StatesT, ActionsT]):
    """A minimal policy seen as a :class:`SequentialPolicy`: every action is one decision.

    The core upgrades a minimal policy once, at construction, and from then on handles one kind only.
    """

    def __init__(self, policy: PolicyModel[StatesT, ActionsT]) -> None:
        self.policy = policy
        self.generate_actions = policy.generate_actions
        self.get_log_probabilities = policy.get_log_probabilities
        self.get_parameters = policy.get_parameters
        self.train = policy.train
        self.eval = policy.eval
        self.to = policy.to

    def encode_actions(self, states: StatesT, actions: ActionsT) -> PairBatch:
        """The pairs as they are."""
        return PairBatch(states, actions, Segments(len(actions), 1, device_of(self.policy)))

    def evaluate_actions(self, batch: PairBatch) -> Evaluation:
        """The minimal policy's log-probs, entropy unknown."""
        return Evaluation(self.policy.get_log_probabilities(batch.states, batch.actions))


def is_sequential(policy: object) -> TypeIs[SequentialPolicy[Any, Any, Any]]:
    """Whether a policy has the methods of a :class:`SequentialPolicy`, its own or those of what it wraps."""
    return not missing_methods(policy, PolicyModel) and not missing_methods(policy, SequentialPolicy)


def as_sequential(policy: PolicyModel[Any, Any], role: str = "policy") -> SequentialPolicy[Any, Any, Any]:
    """The policy itself where it is a :class:`SequentialPolicy`, else a wrapper around it; ``role`` names it in errors.

    Raises:
        TypeError: if it is not a policy; the message names every method that is missing.
    """
    require_methods(policy, PolicyModel, role)
    return policy if is_sequential(policy) else PairwisePolicy(policy)


def device_of(policy: PolicyModel[Any, Any]) -> torch.device:
    """Device of the policy's first parameter; the CPU where it has none."""
    for parameter in policy.get_parameters().values():
        return parameter.device
    return torch.device("cpu")
