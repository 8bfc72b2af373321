"""What a policy remembers while samplers play with it, stored where rows may begin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo import Segments
from grpo_adapters.gym.memory.memory_states import (
    device_of,
    joined_states,
    map_state,
    placed_state,
    rows_of,
    tensors_of,
    where_rows,
)
from grpo_adapters.gym.memory.windows import StoredMemory


def beginning(policy: Any, num_rows: int) -> Any:
    """What a policy remembers where episodes begin; None for one that remembers nothing."""
    begin = getattr(policy, "initial_memory", None)
    return None if begin is None else begin(num_rows)


def begun_anew(policy: Any, memory: Any, begun: Tensor) -> Any:
    """A memory from which all is forgotten in rows where an episode begins, bool [n].

    On a GPU nothing is waited for.
    """
    if memory is None or (begun.device.type == "cpu" and not begun.any()):
        return memory
    return where_rows(begun.to(device_of(memory)), beginning(policy, len(begun)), memory)


def check_remembered(policy: Any, before: Any, after: Any) -> None:
    """A policy must return a memory if it begins with one, and must not if it does not.

    Raises:
        TypeError: if it is otherwise.
    """
    name = type(policy).__name__
    if before is None and after is not None:
        raise TypeError(
            f"{name}.decide returned a memory, but {name} does not tell how episodes begin: add initial_memory(n), "
            f"which returns the memory of n episodes that begin, and keeps_memory_at(step)"
        )
    if before is not None and after is None:
        raise TypeError(f"{name}.decide returned no memory, though it was given one: return Decided(decisions, memory)")


def carried_on(policy: Any, memory: Any, num_rows: int) -> Any:
    """A memory of the last rollout for the next, where the policy is; that of episodes that begin for None.

    Raises:
        ValueError: if it is not of this policy's kind.
    """
    fresh = beginning(policy, num_rows)
    kinds = [_kind(state) for state in (memory, fresh)]
    if memory is None or kinds[0] != kinds[1]:
        if memory is not None:
            raise ValueError(
                f"the environments go on with what a policy remembers as {kinds[0]}, but this {type(policy).__name__} "
                f"remembers {kinds[1]}: call sampler.restart() before another policy plays"
            )
        return fresh
    return placed_state(memory, policy.device, policy.dtype)


def _kind(state: Any) -> Any:
    return None if state is None else [(place, list(tensor.shape)) for place, tensor in tensors_of(state)]


class MemoryRecord:
    """What is remembered in n environments along a rollout.

    Attributes:
        memory: before the next step, n rows; None for a policy that remembers nothing.

    Args:
        policy: decides.
        memory: what the last rollout left; None where all episodes begin.
        begins: whether an episode begins with the first step, bool [n].

    Raises:
        ValueError: if the policy remembers something else than the last rollout left.
    """

    def __init__(self, policy: Any, memory: Any, begins: Tensor) -> None:
        self.memory = begun_anew(policy, carried_on(policy, memory, len(begins)), begins)
        self._policy = policy
        self._begins = begins
        self._steps: list[int] = []
        self._states: list[Any] = []
        self._stored_begins: list[Tensor] = []

    def store(self, step: int) -> None:
        """Note what is remembered before a step, where a row may begin."""
        if self.memory is not None and self._policy.keeps_memory_at(step):
            self._steps.append(step)
            self._states.append(self.memory)
            self._stored_begins.append(self._begins)

    def remember(self, memory: Any) -> None:
        """Take a copy of what a decision left: it may hold what was observed, which environments may write over."""
        check_remembered(self._policy, self.memory, memory)
        self.memory = None if memory is None else map_state(torch.clone, memory)

    def forget_where(self, begun: Tensor) -> None:
        """Forget all where an episode begins behind the step, bool [n]."""
        self.memory, self._begins = begun_anew(self._policy, self.memory, begun), begun

    def whole(self, num_steps: int) -> StoredMemory | None:
        """What was stored in all environments, one behind the other, in so many steps of each."""
        if not self._states:
            return None
        stretches = Segments(len(self._begins), num_steps, self._begins.device)
        steps = stretches.starts.unsqueeze(1) + torch.tensor(self._steps, device=stretches.device)
        states = map_state(lambda *tensors: torch.stack(tensors, 1).flatten(0, 1), *self._states)
        return StoredMemory(steps.flatten(), states, torch.stack(self._stored_begins, 1).flatten(), stretches)

    def stored(self, real: NDArray[np.bool_]) -> list[StoredMemory | None]:
        """What was stored in each environment, by its steps that were ``real``, bool [T, n]."""
        num_envs = real.shape[1]
        if not self._states:
            return [None] * num_envs
        states = map_state(lambda *tensors: torch.stack(tensors, 1), *self._states)
        begins = torch.stack(self._stored_begins, 1)
        before = np.concatenate((np.zeros((1, num_envs), dtype=np.int64), real.cumsum(0)))
        found: list[StoredMemory | None] = []
        for slot in range(num_envs):
            # Where steps were none, several may have been stored before one; the last is what it is decided with.
            steps = before[self._steps, slot]
            kept = np.append(np.diff(steps) > 0, True) & (steps < before[-1, slot])
            rows = torch.from_numpy(np.flatnonzero(kept))
            own = map_state(lambda tensor, slot=slot, rows=rows: tensor[slot, rows.to(tensor.device)], states)
            stretch = Segments(1, int(before[-1, slot]))
            found.append(StoredMemory(torch.from_numpy(steps[kept]), own, begins[slot, rows], stretch))
        return found


@dataclass
class StepsRemembered:
    """What is stored along the steps of one environment or agent, as they come."""

    steps: list[int] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    begins: list[bool] = field(default_factory=list)

    def store(self, policy: Any, step: int, memory: Any, row: int, *, begins: bool) -> None:
        """Note a row of what is remembered before a step, and whether an episode begins there; if a row may begin."""
        if memory is not None and policy.keeps_memory_at(step):
            self.steps.append(step)
            self.states.append(rows_of(memory, slice(row, row + 1)))
            self.begins.append(begins)

    def stored(self, num_steps: int) -> StoredMemory | None:
        """All of it, when so many steps were taken."""
        if not self.states:
            return None
        states = joined_states(self.states)
        return StoredMemory(torch.tensor(self.steps), states, torch.tensor(self.begins), Segments(1, num_steps))


def put_back(memory: Any, rows: list[int], part: Any) -> Any:
    """The memory of all environments with that of some replaced."""
    if memory is None:
        return None
    index = torch.tensor(rows, device=device_of(memory))
    return map_state(lambda whole, own: whole.index_copy(0, index, own), memory, part)
