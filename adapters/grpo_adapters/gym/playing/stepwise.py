"""What samplers ask of a policy, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor
from typing_extensions import Protocol, get_protocol_members

from grpo_adapters.gym.actions.distributions import ActionDistribution
from grpo_adapters.gym.observations.columns import FeatureTensors


@dataclass(frozen=True, slots=True)
class Decided:
    """What a policy decided for n environments.

    Attributes:
        decisions: as the policy's distribution stores them, [n] or [n, K].
        memory: what the policy is to be given at the next step: tensors, or tuples and dictionaries of tensors, with a
            row for each environment; None for a policy that remembers nothing.
        outputs: of the actor, [n, O], to be used again where the steps are evaluated; None to compute them again then.
        values: of the critic, [n], likewise.
    """

    decisions: Tensor
    memory: Any = None
    outputs: Tensor | None = None
    values: Tensor | None = None


class StepwisePolicy(Protocol):
    """A policy that a sampler asks step by step, as it plays.

    :class:`GymPolicy` is one; so is any policy of yours that has this, beside what a trainer asks of it
    (:class:`grpo.SequentialPolicy`, whose batches :meth:`TrajectoryBatch.of` makes of what was played). One that
    remembers something has two methods more: ``initial_memory(n)``, the memory of n episodes that begin, and
    ``keeps_memory_at(step)``, whether the memory before a step of a rollout is stored in the trajectories. One that
    returns ``outputs`` has ``weights_checksum()``, which says whether they are still its own.

    Attributes:
        generator: of its noise.
    """

    generator: torch.Generator

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """Of one environment."""
        ...

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Of one environment."""
        ...

    @property
    def distribution(self) -> ActionDistribution:
        """What its decisions mean."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it decides."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the features that it takes, where these are no images."""
        ...

    def decide(
        self, observations: FeatureTensors, noise: Tensor | None, masks: Tensor | None = None, memory: Any = None
    ) -> Decided:
        """Decide for n environments.

        Args:
            observations: features [n, *shape], a tensor or :class:`Columns`.
            noise: to draw with, [n, K]; None for the most probable decisions.
            masks: which choices are allowed, bool [n, number of choices]; None for all.
            memory: of the step before; None where all episodes begin.
        """
        ...

    def train(self) -> Any:
        """Learn from here on."""
        ...

    def eval(self) -> Any:
        """Only decide from here on."""
        ...


def require_stepwise(policy: Any, asker: str) -> None:
    """Raise a TypeError that names what a policy lacks, unless it is a :class:`StepwisePolicy`."""
    missing = [name for name in sorted(get_protocol_members(StepwisePolicy)) if not hasattr(policy, name)]
    if missing:
        raise TypeError(
            f"{asker} was given a policy of type {type(policy).__name__}, which lacks {', '.join(missing)}, expected a "
            f"GymPolicy or another grpo_adapters.gym.StepwisePolicy, which decides step by step: add "
            f"{'it' if len(missing) == 1 else 'them'}, or build GymPolicy(sampler)"
        )
    for name in ("observation_space", "action_space"):
        space = getattr(policy, name)
        if not isinstance(space, gymnasium.Space):
            raise TypeError(
                f"{type(policy).__name__}.{name} is a {type(space).__name__}, expected a gymnasium.Space: take the "
                f"environment's"
            )
