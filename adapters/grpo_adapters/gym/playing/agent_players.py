"""The record of one agent in a rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grpo import NonFiniteError
from grpo_adapters.gym.environments.checks import allows_something, as_mask
from grpo_adapters.gym.memory.memory_records import StepsRemembered, carried_on
from grpo_adapters.gym.observations.columns import finite_rows, not_finite_parts
from grpo_adapters.gym.observations.encoder import Features


@dataclass
class Part:
    """What one agent played in a rollout of one of its episodes."""

    observations: list[Features] = field(default_factory=list)
    masks: list[NDArray[np.bool_] | None] = field(default_factory=list)
    decisions: list[torch.Tensor] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    after: Features | None = None
    terminated: bool = False


class AgentPlayer:
    """One agent in one copy of the environment, from rollout to rollout.

    Attributes:
        memory: what the policy remembers of the agent's episode, one row; None where it begins.
        remembered: what was stored of it in this rollout.
        num_steps: taken in this rollout.

    Args:
        name: what to call it in errors.
        sizes: of the choices that a mask lists.
    """

    def __init__(self, name: str, sizes: Sequence[int]) -> None:
        self.name = name
        self.sizes = sizes
        self.parts: list[Part] = []
        self.remembered = StepsRemembered()
        self.num_steps = 0
        self.leave()

    def leave(self) -> None:
        """Be in no episode."""
        self.features: Features | None = None
        self.mask: NDArray[np.bool_] | None = None
        self.memory: Any = None
        self.episode_return, self.episode_length = 0.0, 0

    def begin_rollout(self, policy: Any) -> None:
        """Forget what was played, but not the episode under way, nor what the policy remembers of it.

        Raises:
            ValueError: if this policy remembers something else.
        """
        self.parts = [Part()]
        self.remembered, self.num_steps = StepsRemembered(), 0
        if self.memory is not None:
            self.memory = carried_on(policy, self.memory, 1)

    def observe(self, features: Features, mask: Any, step: int) -> None:
        """See what is to be decided on."""
        if not finite_rows(features, 0):
            raise self._not_finite("observation", features, step)
        self.features, self.mask = features, None if mask is None else as_mask(mask)
        if self.mask is not None and not allows_something(self.mask, self.sizes):
            raise ValueError(
                f"{self.name} has an action_mask that allows nothing at step {step} of the rollout: let it leave, or "
                f"allow an action that does nothing"
            )

    def act(self, decision: torch.Tensor, reward: float, step: int) -> None:
        """Note a decision on what was last observed, and its reward."""
        if not np.isfinite(reward):
            raise self._not_finite("reward", reward, step)
        assert self.features is not None
        part = self.parts[-1]
        part.observations.append(self.features)
        part.masks.append(self.mask)
        part.decisions.append(decision)
        part.rewards.append(reward)
        self.episode_return += reward
        self.episode_length += 1
        self.num_steps += 1

    def end(self, after: Features, *, terminated: bool, step: int) -> tuple[float, int]:
        """The episode is over; its return and length."""
        if not finite_rows(after, 0):
            raise self._not_finite("observation", after, step + 1)
        self.parts[-1].after, self.parts[-1].terminated = after, terminated
        self.parts.append(Part())
        played = self.episode_return, self.episode_length
        self.leave()
        return played

    def played(self) -> Iterator[Part]:
        """The parts of episodes in this rollout; one that goes on is cut where it is."""
        for part in self.parts:
            if part.after is None:
                part.after = self.features
            if part.rewards:
                yield part

    def _not_finite(self, what: str, value: Any, step: int) -> NonFiniteError:
        return NonFiniteError(
            f"{self.name} was given the {what} {not_finite_parts(np.asarray(value))} at step {step} of the rollout, "
            f"expected finite numbers: clip them in the environment"
        )
