"""What samplers ask of a policy, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from torch import Tensor
from typing_extensions import Protocol

from grpo_adapters.gym.columns import FeatureTensors
from grpo_adapters.gym.distributions import ActionDistribution


@dataclass(frozen=True, slots=True)
class Decided:
    """What a policy decided for n environments.

    Attributes:
        decisions: as the policy's distribution stores them, [n] or [n, K].
        memory: what the policy is to be given at the next step: tensors, or tuples and dictionaries of tensors, with a
            row for each environment; None for a policy that remembers nothing.
    """

    decisions: Tensor
    memory: Any = None


class StepwisePolicy(Protocol):
    """A policy that a sampler asks step by step, as it plays.

    :class:`GymPolicy` is one; so is any policy of yours that has this, beside what a trainer asks of it. One that
    remembers something has two methods more: ``initial_memory(n)``, the memory of n episodes that begin, and
    ``keeps_memory_at(step)``, whether the memory before a step of a rollout is stored in the trajectories.

    Attributes:
        observation_space: of one environment.
        action_space: of one environment.
        distribution: what its decisions mean.
        generator: of its noise.
    """

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    distribution: ActionDistribution
    generator: torch.Generator

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
