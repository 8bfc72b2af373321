"""The protocols of policies: what one must do, or may do besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.data.action_batches import ActionBatch
from grpo.data.batches import Batch
from grpo.data.evaluation import Evaluation, ValueEstimates
from grpo.data.segments import Segments

StatesT = TypeVar("StatesT", bound=Batch[Any])
ActionsT = TypeVar("ActionsT", bound=Batch[Any])
StatesT_contra = TypeVar("StatesT_contra", bound=Batch[Any], contravariant=True)
ActionBatchT = TypeVar("ActionBatchT", bound=ActionBatch)


@runtime_checkable
class PolicyModel(Protocol[StatesT_contra, ActionsT]):
    """Everything that a custom model must have to be trained. There is nothing to inherit.

    The two type parameters are the types of a batch: ``PolicyModel[list[str], list[str]]`` takes and gives
    lists of strings, ``PolicyModel[Tensor, Tensor]`` stacked tensors.

    One that draws from a ``torch.Generator`` of its own, or one of NumPy's, keeps it in an attribute ``generator``. It
    is then saved with the trainer, put back after a step that fails and after an evaluation, and seeded apart on each
    of several processes. PyTorch's, Python's and NumPy's global ones are saved by a :class:`grpo.Run`.

    Example:
        >>> import torch
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
class EncodesGroups(Protocol):
    """A policy that is told which samples answer the same state, so that it encodes S states once and not N.

    Its ``encode_groups`` is called in place of ``encode_actions``. Of use where a state costs more than an action: a
    map whose cities are embedded, a long prompt.
    """

    def encode_groups(self, states: Any, actions: Any, groups: Segments) -> ActionBatch:
        """Make N samples that answer S states ready for evaluation.

        Args:
            states: S states, one for each group.
            actions: N actions, group after group.
            groups: the N actions cut into groups; ``groups.ids`` is the index of each action's state, int64 [N].
        """
        ...


@runtime_checkable
class ReportsMetrics(Protocol):
    """A model or a sampler that has something of its own to report beside the trainer's metrics."""

    def get_metrics(self) -> Mapping[str, float]:
        """Metrics of the step that just ended, by name."""
        ...


@runtime_checkable
class FollowsData(Protocol):
    """A policy with statistics of what it has seen, which are not trained: running means of observations, say."""

    def update_statistics(self, batch: Any) -> None:
        """Take a batch into account. Called once, at the end of a step, so that within a step nothing moves.

        The first one may come earlier, for a policy that is :class:`grpo.StartsFromData`.

        Of several processes each is given the batches of all of them, one after the other. A policy that is
        :class:`grpo.JoinsWorld` is given its own only, which has no samples, and nothing but ``samples`` and ``rows``,
        where the process has none; it adds up what it needs of the others itself.
        """
        ...


@runtime_checkable
class StartsFromData(FollowsData, Protocol):
    """A policy that follows data and is of little use without, such as one that normalises its observations.

    While it has no statistics, ``update_statistics`` is called in a step as soon as the log-probs of the policy that
    sampled are noted, and not at its end: values and all updates are then computed with the statistics of the first
    batch, the ratios of probabilities to the policy without.
    """

    def has_statistics(self) -> bool:
        """Whether it has seen data. What it counts by is a buffer, so that a step that fails can put it back."""
        ...


@runtime_checkable
class ComputesTogether(Protocol):
    """A policy whose parameters lie in parts on several processes, all of which take part in each of its evaluations.

    It sums the gradients of those parts itself. A trainer of several processes (:class:`grpo.World`) sees to it that
    all of them evaluate equally often, whatever their shares; ``generate_actions`` it calls on all or on none, with no
    states where a process has none.
    """

    def evaluate_nothing(self) -> Tensor:
        """Take part in an evaluation of the others: a scalar 0, differentiable in the parameters where gradients are.

        It is one forward pass, as ``evaluate_actions`` is one.
        """
        ...

    def sum_gradients(self, now: bool) -> None:
        """Whether the backward passes that follow sum gradients over the processes, or only add to this one's.

        The last one of an optimiser step does the former.
        """
        ...
