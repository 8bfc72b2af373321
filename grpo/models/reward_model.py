"""The protocol of a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.data.batches import Batch

StatesT_contra = TypeVar("StatesT_contra", bound=Batch[Any], contravariant=True)
ActionsT_contra = TypeVar("ActionsT_contra", bound=Batch[Any], contravariant=True)


@dataclass(frozen=True, slots=True)
class PartialRewards:
    """Rewards of N samples of which some could not be scored: a judge gave no answer, a simulator crashed.

    A trainer leaves the samples that were not scored out of the step, so that their groups get smaller.

    Attributes:
        values: reward of each sample, [N], floating-point. What stands where one was not scored is never looked at.
        scored: whether each sample was scored, bool of shape [N], on the same device.

    Example:
        >>> import torch
        >>> rewards = PartialRewards(torch.tensor([1.0, float("nan"), 0.0]), scored=torch.tensor([True, False, True]))
        >>> rewards.values[rewards.scored]
        tensor([1., 0.])
    """

    values: Tensor
    scored: Tensor


@runtime_checkable
class RewardModel(Protocol[StatesT_contra, ActionsT_contra]):
    """Everything that a custom reward model must have. There is nothing to inherit.

    One that draws random numbers, noisy rewards for instance, keeps the ``torch.Generator`` that it draws from, or a
    generator of NumPy's, in an attribute ``generator``. It is then saved with the trainer, put back after a step that
    fails and after an evaluation, and seeded apart on each of several processes. One with parts that draw tells their
    generators in a list ``generators``, and saves them in its own ``state_dict``.

    Example:
        >>> class PrefersHeads:
        ...     def compute_rewards(self, states, actions):
        ...         return torch.tensor([1.0 if action == "heads" else 0.0 for action in actions])
        ...     def train(self): ...
        ...     def eval(self): ...
        ...     def to(self, device): ...
        >>> isinstance(PrefersHeads(), RewardModel)
        True
    """

    def compute_rewards(self, states: StatesT_contra, actions: ActionsT_contra) -> Tensor | PartialRewards:
        """Reward of each action given its state.

        Args:
            states: N states, one for each action.
            actions: N actions.

        Returns:
            Rewards of the samples, [N], or of all their decisions end to end, [D]; floating-point, finite. Where some
            samples could not be scored, :class:`grpo.PartialRewards` of the samples.
        """
        ...

    def train(self) -> Any:
        """Enter training mode."""
        ...

    def eval(self) -> Any:
        """Enter evaluation mode; rewards are computed in it."""
        ...

    def to(self, device: Any) -> Any:
        """Move to a device, in place."""
        ...
