"""The rewards that the environments gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grpo_adapters.gym.trajectories import Rollout, Trajectory


class EnvironmentReward:
    """The rewards of the steps, as the environments gave them. A reward model for :class:`GymPolicy`."""

    def __init__(self) -> None:
        self._device: torch.device | None = None

    def compute_rewards(self, states: Any, actions: Sequence[Trajectory]) -> Tensor:
        """Rewards of all steps end to end, [D]."""
        if isinstance(actions, Rollout):
            rewards = actions.rewards.flatten()
        else:
            rewards = torch.cat([trajectory.rewards for trajectory in actions])
        return rewards.to(self._device)

    def train(self) -> None:
        """Nothing to switch."""

    def eval(self) -> None:
        """Nothing to switch."""

    def to(self, device: torch.device | str) -> None:
        """Give the rewards on this device, and not where they were."""
        self._device = torch.empty(0, device=device).device
