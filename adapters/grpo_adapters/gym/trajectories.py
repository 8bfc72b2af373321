"""What was played in environments, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo import Segments
from grpo_adapters.gym.columns import joined, placed


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Consecutive steps in one environment: a whole episode, or a fragment that may touch several.

    Attributes:
        observations: features that each step decided on, [T, ...], a tensor or :class:`Columns`.
        decisions: what was decided, [T] or [T, K], as the policy's distribution stores it.
        rewards: [T].
        episode_lengths: how many of the T steps belong to each of the K episodes, in turn.
        next_observations: features after the last step of each episode, its true successor, [K, ...].
        terminated: whether each episode ended there by its own rules, bool [K]; else it was cut short.
        masks: which choices were allowed at each step, bool [T, ...]; None where all were.
    """

    observations: Any
    decisions: Tensor
    rewards: Tensor
    episode_lengths: tuple[int, ...]
    next_observations: Any
    terminated: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rewards)


class TrajectoryBatch:
    """Steps of trajectories, end to end; every step is a row, since it can be evaluated from its observation alone.

    Attributes:
        observations: [D, ...].
        decisions: [D] or [D, K].
        masks: bool [D, ...], or None.
        samples: the D steps cut into trajectories.
        rows: one step each.
        episodes: the D steps cut into episodes.
        next_observations: after the last step of each episode.
        terminated: whether each episode ended by its own rules.
    """

    __slots__ = (
        "decisions",
        "episodes",
        "masks",
        "next_observations",
        "observations",
        "rows",
        "samples",
        "terminated",
    )

    def __init__(
        self,
        observations: Any,
        decisions: Tensor,
        masks: Tensor | None,
        samples: Segments | None = None,
        episodes: Segments | None = None,
        next_observations: Any = None,
        terminated: Tensor | None = None,
    ) -> None:
        self.observations = observations
        self.decisions = decisions
        self.masks = masks
        self.rows = Segments(len(decisions), 1, decisions.device)
        self.samples = self.rows if samples is None else samples
        self.episodes = self.samples if episodes is None else episodes
        self.next_observations = next_observations
        self.terminated = terminated

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], device: torch.device, dtype: torch.dtype) -> TrajectoryBatch:
        """The steps of the trajectories on a device, with observations in the precision of the networks."""
        masks = _joined_masks(trajectories)
        lengths = [length for trajectory in trajectories for length in trajectory.episode_lengths]
        return cls(
            placed(joined([trajectory.observations for trajectory in trajectories]), device, dtype),
            torch.cat([trajectory.decisions for trajectory in trajectories]).to(device),
            None if masks is None else masks.to(device),
            Segments.of_lengths([len(trajectory) for trajectory in trajectories], device),
            Segments.of_lengths(lengths, device),
            placed(joined([trajectory.next_observations for trajectory in trajectories]), device, dtype),
            torch.cat([trajectory.terminated for trajectory in trajectories]).to(device),
        )

    def select(self, rows: Tensor) -> TrajectoryBatch:
        """The steps at ``rows``, each a sample of its own."""
        return TrajectoryBatch(
            self.observations[rows], self.decisions[rows], self.masks if self.masks is None else self.masks[rows]
        )


def _joined_masks(trajectories: Sequence[Trajectory]) -> Tensor | None:
    """Masks of all steps, where any are told; a trajectory without allowed everything."""
    told = [trajectory.masks for trajectory in trajectories if trajectory.masks is not None]
    if not told:
        return None
    everything = torch.ones_like(told[0][:1])
    return torch.cat(
        [
            everything.expand(len(trajectory), *everything.shape[1:]) if trajectory.masks is None else trajectory.masks
            for trajectory in trajectories
        ]
    )
