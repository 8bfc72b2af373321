"""What a reward model must do."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.batches import Batch

StatesT_contra = TypeVar("StatesT_contra", bound=Batch[Any], contravariant=True)
ActionsT_contra = TypeVar("ActionsT_contra", bound=Batch[Any], contravariant=True)


@runtime_checkable
class RewardModel(Protocol[StatesT_contra, ActionsT_contra]):
    """Everything that a custom reward model must have. There is nothing to inherit.

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

    def compute_rewards(self, states: StatesT_contra, actions: ActionsT_contra) -> Tensor:
        """Reward of each action given its state.

        Args:
            states: N states, one for each action.
            actions: N actions.

        Returns:
            Rewards of the samples, [N], or of all their decisions end to end, [D]; floating-point, finite.
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
