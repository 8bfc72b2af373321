"""What was played in environments, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo import Segments
from grpo_adapters.gym.memory.memory_states import rows_of
from grpo_adapters.gym.memory.windows import StoredMemory, Windows, memory_of
from grpo_adapters.gym.observations.columns import joined, placed
from grpo_adapters.gym.observations.frame_stacks import gathered

ROUNDING = 1e-4
"""Of numbers that are computed again beside others, relative to the largest of them."""


@dataclass(frozen=True, eq=False)
class SampledOutputs:
    """What networks computed for steps while these were decided.

    Attributes:
        outputs: of the actor, [T, O].
        values: of the critic, [T]; None without one.
        weights: checksum of the weights that they were computed with.
    """

    outputs: Tensor
    values: Tensor | None
    weights: str

    def __getitem__(self, steps: Tensor) -> SampledOutputs:
        return SampledOutputs(
            self.outputs[steps], self.values if self.values is None else self.values[steps], self.weights
        )

    def is_close_to(self, other: SampledOutputs) -> bool:
        """Whether outputs and values differ by no more than rounding."""
        pairs = [(self.outputs, other.outputs), (self.values, other.values)]
        return all(
            own is not None
            and own.shape == its.shape
            and bool(((own - its).abs() <= ROUNDING * its.abs().max()).all() if its.numel() else True)
            for own, its in pairs
            if its is not None
        )

    def to(self, device: torch.device) -> SampledOutputs:
        """The same on a device."""
        values = None if self.values is None else self.values.to(device)
        return SampledOutputs(self.outputs.to(device), values, self.weights)

    @staticmethod
    def joined(parts: Sequence[SampledOutputs | None]) -> SampledOutputs | None:
        """Those of all steps, end to end; None unless there are some for each, of the same weights."""
        told = [part for part in parts if part is not None]
        if len(told) < len(parts) or len({part.weights for part in told}) != 1:
            return None
        values = [part.values for part in told if part.values is not None]
        outputs = torch.cat([part.outputs for part in told])
        return SampledOutputs(outputs, torch.cat(values) if values else None, told[0].weights)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Consecutive steps in one environment: a whole episode, or a fragment that may touch several.

    Attributes:
        observations: features that each step decided on, [T, ...], a tensor, :class:`Columns` or, of stacked frames,
            :class:`FrameStacks`.
        decisions: what was decided, [T] or [T, K], as the policy's distribution stores it.
        rewards: [T].
        episode_lengths: how many of the T steps belong to each of the K episodes, in turn.
        next_observations: features after the last step of each episode, its true successor, [K, ...].
        terminated: whether each episode ended there by its own rules, bool [K]; else it was cut short.
        masks: which choices were allowed at each step, bool [T, ...]; None where all were.
        memory: what the policy remembered along the way; None for one that remembers nothing.
        sampled: what its networks computed along the way, where that is to be used again.
    """

    observations: Any
    decisions: Tensor
    rewards: Tensor
    episode_lengths: tuple[int, ...]
    next_observations: Any
    terminated: Tensor
    masks: Tensor | None = None
    memory: StoredMemory | None = None
    sampled: SampledOutputs | None = None

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, eq=False)
class Rollout(Sequence[Trajectory]):
    """Equally many steps in each of n environments, in one piece: a batch of n trajectories, made when asked for.

    Attributes:
        observations: features that each step decided on, [n, T, ...].
        decisions: what was decided, [n, T] or [n, T, K].
        rewards: [n, T].
        ends: where episodes end, or the parts of them that were played, among the n * T steps, environment by
            environment, int64 [K], rising.
        next_observations: features after each of these ends, [K, ...].
        terminated: whether each episode ended there by its own rules, bool [K]; else it was cut short.
        masks: which choices were allowed, bool [n, T, ...]; None where all were.
        memory: what the policy remembered along the way, in all environments; None for one that remembers nothing.
    """

    observations: Tensor
    decisions: Tensor
    rewards: Tensor
    ends: Tensor
    next_observations: Tensor
    terminated: Tensor
    masks: Tensor | None = None
    memory: StoredMemory | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[slot] for slot in range(*index.indices(len(self)))]
        slot, num_steps = range(len(self))[index], self.rewards.shape[1]
        pieces = slice(*(int(torch.searchsorted(self.ends, at * num_steps)) for at in (slot, slot + 1)))
        return Trajectory(
            self.observations[slot],
            self.decisions[slot],
            self.rewards[slot],
            tuple(self.lengths[pieces].tolist()),
            self.next_observations[pieces],
            self.terminated[pieces],
            None if self.masks is None else self.masks[slot],
            None if self.memory is None else self._memory_in(self.memory, slot),
        )

    def _memory_in(self, memory: StoredMemory, slot: int) -> StoredMemory:
        count, num_steps = len(memory.steps) // len(self), self.rewards.shape[1]
        own = slice(slot * count, (slot + 1) * count)
        stretch = Segments(1, num_steps, memory.stretches.device)
        return StoredMemory(
            memory.steps[own] - slot * num_steps, rows_of(memory.states, own), memory.begins[own], stretch
        )

    @property
    def lengths(self) -> Tensor:
        """Steps of each episode, or part of one, int64 [K]."""
        return self.ends.diff(prepend=self.ends.new_full((1,), -1))

    def batch(self, device: torch.device, dtype: torch.dtype, *, burn_in: int | None = None) -> TrajectoryBatch:
        """All steps on a device, as :meth:`TrajectoryBatch.of` gives them."""
        num_envs, num_steps = self.rewards.shape
        observations = placed(self.observations.flatten(0, 1), device, dtype)
        windows = None
        if burn_in is not None:
            windows = Windows.of(memory_of(self), self.lengths, observations, burn_in, device, dtype)
        return TrajectoryBatch(
            observations,
            self.decisions.flatten(0, 1).to(device),
            None if self.masks is None else self.masks.flatten(0, 1).to(device),
            Segments(num_envs, num_steps, device),
            Segments.of_lengths(self.lengths.to(device)),
            placed(self.next_observations, device, dtype),
            self.terminated.to(device),
            windows,
        )


class TrajectoryBatch:
    """Steps of trajectories, end to end.

    Every step is a row, since it can be evaluated from its observation alone. For a policy with a memory rows are
    windows of a trajectory, or all of it.

    Attributes:
        stored_observations: [D, ...], as the trajectories have them.
        decisions: [D] or [D, K].
        masks: bool [D, ...], or None.
        samples: the D steps cut into trajectories.
        rows: one step each, or the windows.
        episodes: the D steps cut into episodes.
        next_observations: after the last step of each episode.
        terminated: whether each episode ended by its own rules.
        windows: what is remembered where each row begins; None where every step is a row.
        sampled: what was computed for the steps while they were decided, if anything.
    """

    __slots__ = (
        "decisions",
        "episodes",
        "masks",
        "next_observations",
        "rows",
        "sampled",
        "samples",
        "stored_observations",
        "terminated",
        "windows",
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
        windows: Windows | None = None,
        sampled: SampledOutputs | None = None,
    ) -> None:
        self.stored_observations = observations
        self.decisions = decisions
        self.masks = masks
        self.windows = windows
        self.sampled = sampled
        self.rows = Segments(len(decisions), 1, decisions.device) if windows is None else windows.rows
        self.samples = self.rows if samples is None else samples
        self.episodes = self.samples if episodes is None else episodes
        self.next_observations = next_observations
        self.terminated = terminated

    @property
    def observations(self) -> Any:
        """[D, ...], a tensor or :class:`Columns`; of stacked frames a new tensor at each time."""
        return gathered(self.stored_observations)

    @classmethod
    def of(
        cls,
        trajectories: Sequence[Trajectory],
        device: torch.device,
        dtype: torch.dtype,
        *,
        burn_in: int | None = None,
    ) -> TrajectoryBatch:
        """The steps of the trajectories on a device, with observations in the precision of the networks.

        Args:
            trajectories: which.
            device: where the networks are.
            dtype: their precision.
            burn_in: steps before each window for a policy with a memory; None for one without.
        """
        if isinstance(trajectories, Rollout):
            return trajectories.batch(device, dtype, burn_in=burn_in)
        observations = placed(joined([trajectory.observations for trajectory in trajectories]), device, dtype)
        masks = _joined_masks(trajectories)
        sampled = SampledOutputs.joined([trajectory.sampled for trajectory in trajectories])
        lengths = [length for trajectory in trajectories for length in trajectory.episode_lengths]
        windows = None
        if burn_in is not None:
            memory = StoredMemory.joined([memory_of(trajectory) for trajectory in trajectories])
            own_lengths = torch.tensor(lengths, device=memory.steps.device)
            windows = Windows.of(memory, own_lengths, observations, burn_in, device, dtype)
        return cls(
            observations,
            torch.cat([trajectory.decisions for trajectory in trajectories]).to(device),
            None if masks is None else masks.to(device),
            Segments.of_lengths([len(trajectory) for trajectory in trajectories], device),
            Segments.of_lengths(lengths, device),
            placed(joined([trajectory.next_observations for trajectory in trajectories]), device, dtype),
            torch.cat([trajectory.terminated for trajectory in trajectories]).to(device),
            windows,
            None if sampled is None else sampled.to(device),
        )

    def select(self, rows: Tensor) -> TrajectoryBatch:
        """The ``rows``, each a sample of its own."""
        steps = self.rows.positions(rows)
        return TrajectoryBatch(
            self.stored_observations[steps],
            self.decisions[steps],
            self.masks if self.masks is None else self.masks[steps],
            samples=None if self.windows is None else self.rows.select(rows),
            windows=None if self.windows is None else self.windows.select(rows),
            sampled=None if self.sampled is None else self.sampled[steps],
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
