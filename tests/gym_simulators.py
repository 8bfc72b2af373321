"""Simulators over tensors: scripted environments seen as one, and one that misbehaves at will."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import SyncVectorEnv
from torch import Tensor


class TensorsOf:
    """A vector environment of arrays, which resets in the step that ends an episode, as a simulator over tensors."""

    def __init__(self, envs: SyncVectorEnv) -> None:
        self.envs = envs
        self.num_envs = envs.num_envs
        self.single_observation_space = envs.single_observation_space
        self.single_action_space = envs.single_action_space

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        observations, infos = self.envs.reset(seed=seed)
        return torch.from_numpy(observations.copy()), self._info(infos)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.envs.step(actions.numpy())
        info = self._info(infos)
        if "final_obs" in infos:
            final = np.full_like(observations, -99)
            for index in np.flatnonzero(terminated | truncated):
                final[index] = infos["final_obs"][index]
            info["final_obs"] = torch.from_numpy(final)
        return (
            torch.from_numpy(observations.copy()),
            torch.from_numpy(rewards),
            torch.from_numpy(terminated),
            torch.from_numpy(truncated),
            info,
        )

    def _info(self, infos: dict[str, Any]) -> dict[str, Any]:
        return {"action_mask": torch.from_numpy(infos["action_mask"].astype(bool))} if "action_mask" in infos else {}


class Counters:
    """Counts the steps of episodes that are cut short after five, in place, and gives a reward of 1 for each.

    Args:
        num_envs: n.
        device: where it counts.
        size: of an observation.
        wrong: by step, what to give in place of what is right: a position in what ``step`` returns, and the value.
    """

    def __init__(
        self,
        num_envs: int = 4,
        device: torch.device | str = "cpu",
        size: int = 2,
        wrong: dict[int, tuple[int, Any]] | None = None,
    ) -> None:
        self.num_envs, self.wrong = num_envs, wrong or {}
        self.single_observation_space: Any = Box(-np.inf, np.inf, (size,))
        self.single_action_space: Any = Discrete(2)
        self.counts = torch.zeros(num_envs, size, device=device)
        self.rewards = torch.ones(num_envs, device=device)
        self.never = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self.seeds: list[int | None] = []
        self.num_steps = 0

    def reset(self, *, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        self.seeds.append(seed)
        self.counts.zero_()
        return self.counts, {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        final = self.counts + 1
        truncated = final[:, 0] >= 5
        self.counts.copy_(final.masked_fill(truncated.unsqueeze(1), 0.0))
        right: list[Any] = [self.counts, self.rewards, self.never, truncated, {"final_obs": final}]
        if self.num_steps in self.wrong:
            place, value = self.wrong[self.num_steps]
            right[place] = value
        self.num_steps += 1
        return right[0], right[1], right[2], right[3], right[4]
