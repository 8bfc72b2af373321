"""Rows that a memory goes over step by step: whole trajectories, or windows of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grpo import Segments
from grpo_adapters.gym.memory.memory_states import (
    device_of,
    go_over,
    joined_states,
    placed_state,
    rows_of,
    where_rows,
)
from grpo_adapters.gym.observations.frame_stacks import gathered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grpo_adapters.gym.playing.trajectories import Rollout, Trajectory


@dataclass(frozen=True, eq=False)
class StoredMemory:
    """What a policy remembered along a trajectory, where a row may begin.

    Attributes:
        steps: of the trajectory, in order, the first one of each stretch among them, int64 [K].
        states: the memory's state before each of these steps, K rows.
        begins: whether an episode begins with each of these steps, bool [K].
        stretches: the steps cut into parts that the memory goes over apart: one for each environment or agent.
    """

    steps: Tensor
    states: Any
    begins: Tensor
    stretches: Segments

    @staticmethod
    def joined(memories: Sequence[StoredMemory]) -> StoredMemory:
        """What was stored along several trajectories, end to end."""
        lengths = torch.tensor([memory.stretches.total for memory in memories])
        offsets = (lengths.cumsum(0) - lengths).tolist()
        return StoredMemory(
            torch.cat([memory.steps + offset for memory, offset in zip(memories, offsets, strict=True)]),
            joined_states([memory.states for memory in memories]),
            torch.cat([memory.begins for memory in memories]),
            Segments.of_lengths(torch.cat([memory.stretches.lengths for memory in memories])),
        )


@dataclass(frozen=True, eq=False)
class Windows:
    """The rows of a batch of steps, and what is remembered where each begins.

    A row may have steps of burn-in before it, of the same episode, which the memory goes over and nothing is learnt
    from.

    Attributes:
        rows: the D steps cut into R rows.
        begins: whether an episode begins with a step, bool [D].
        states: before the first step of each row, or of its burn-in, R rows.
        burn_in: how many steps, int64 [R].
        burn_in_begins: whether an episode begins with the burn-in, bool [R].
        starts: where each row begins among all steps that were sampled, int64 [R].
        observations: of all these steps.
    """

    rows: Segments
    begins: Tensor
    states: Any
    burn_in: Tensor
    burn_in_begins: Tensor
    starts: Tensor
    observations: Any

    @classmethod
    def of(
        cls,
        memory: StoredMemory,
        episode_lengths: Tensor,
        observations: Any,
        burn_in: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Windows:
        """Rows that begin ``burn_in`` steps behind each step at which a state is stored, and with the stretches.

        Args:
            memory: what was stored along all D steps.
            episode_lengths: how many of the steps belong to each episode, or part of one, int64.
            observations: of the D steps.
            burn_in: steps.
            device: where the observations and the networks are.
            dtype: of the networks.
        """
        stretches, stored, states = memory.stretches, memory.steps, memory.states
        steps = torch.arange(stretches.total, device=stored.device)
        begins = torch.zeros_like(steps, dtype=torch.bool)
        begins[episode_lengths.cumsum(0) - episode_lengths] = True
        begins[stored] = memory.begins
        stretch = torch.searchsorted(stretches.last, stored)
        starts = torch.where(stored == stretches.starts[stretch], stored, stored + burn_in)
        kept = starts <= stretches.last[stretch]
        if not kept.all():
            starts, stored, states = starts[kept], stored[kept], rows_of(states, kept.to(device_of(states)))
        rows = Segments.of_lengths(starts.diff(append=starts.new_full((1,), stretches.total)))
        last_begin = torch.where(begins, steps, -1).cummax(0).values[starts]
        from_step = torch.maximum(stored, last_begin)
        states = placed_state(states, device, dtype)
        own = (begins, starts - from_step, from_step > stored, starts)
        begins, burn_in_lengths, burn_in_begins, starts = (tensor.to(device) for tensor in own)
        return cls(rows.to(device), begins, states, burn_in_lengths, burn_in_begins, starts, observations)

    def select(self, rows: Tensor) -> Windows:
        """Only the given rows, in the order given."""
        return Windows(
            self.rows.select(rows),
            self.begins[self.rows.positions(rows)],
            rows_of(self.states, rows),
            self.burn_in[rows],
            self.burn_in_begins[rows],
            self.starts[rows],
            self.observations,
        )

    def remember(
        self, memory: Any, beginning: Callable[[int], Any], units: Tensor, units_of: Callable[[Any], Tensor]
    ) -> Remembered:
        """What a memory makes of all steps, from the states that were sampled with.

        Args:
            memory: goes over the steps; an episode that begins is a sequence of its own.
            beginning: the memory's state where so many episodes begin.
            units: of the D steps.
            units_of: makes units of the observations of the burn-in.
        """
        states = self._behind_burn_in(memory, beginning, units_of)
        is_start = self.begins.clone()
        is_start[self.rows.starts] = True
        starts = is_start.nonzero().view(-1)
        begins = self.begins[starts]
        sequences = self.rows
        if len(starts) > len(self.rows):
            sequences = Segments.of_lengths(starts.diff(append=starts.new_full((1,), len(is_start))))
            states = rows_of(states, self.rows.ids[starts])
        if begins.any():
            states = where_rows(begins, beginning(len(begins)), states)
        return Remembered(*go_over(memory, units, sequences, states), sequences)

    @torch.no_grad()
    def _behind_burn_in(self, memory: Any, beginning: Callable[[int], Any], units_of: Callable[[Any], Tensor]) -> Any:
        """The states before the first step of each row."""
        warmed = self.burn_in.nonzero().view(-1)
        if len(warmed) == 0:
            return self.states
        steps = Segments.of_lengths(self.burn_in[warmed])
        first = self.starts[warmed] - steps.lengths
        places = steps.expand(first - steps.starts) + torch.arange(steps.total, device=steps.device)
        states = rows_of(self.states, warmed)
        states = where_rows(self.burn_in_begins[warmed], beginning(len(warmed)), states)
        _, states = go_over(memory, units_of(gathered(self.observations[places])), steps, states)
        number = torch.zeros_like(self.burn_in).index_copy(0, warmed, torch.arange(len(warmed), device=warmed.device))
        return where_rows(self.burn_in > 0, rows_of(states, number), self.states)


@dataclass(frozen=True, eq=False)
class Remembered:
    """What a memory made of steps.

    Attributes:
        units: [D, H].
        states: after the last step of each sequence, K rows.
        sequences: the D steps cut into the K sequences that it went over.
    """

    units: Tensor
    states: Any
    sequences: Segments

    def states_after(self, steps: Tensor) -> Any:
        """The states after steps with which sequences end, int64."""
        return rows_of(self.states, torch.searchsorted(self.sequences.last, steps))


def memory_of(played: Trajectory | Rollout) -> StoredMemory:
    """What was stored along what was played.

    Raises:
        TypeError: if nothing was.
    """
    if played.memory is None:
        raise TypeError(
            "a trajectory holds no memory, but the policy that evaluates it has one: let the samplers play with this "
            "policy, which stores what it remembers along the way"
        )
    return played.memory
