"""States of memories: tensors, or structures of them, with a row for each environment or sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo import Segments


def map_state(function: Callable[..., Any], *states: Any) -> Any:
    """What ``function`` makes of each tensor of a state, or of tensors in the same place of several."""
    first = states[0]
    if type(first) is tuple:
        return tuple(map_state(function, *parts) for parts in zip(*states, strict=True))
    if type(first) is dict:
        return {name: map_state(function, *(state[name] for state in states)) for name in first}
    return function(*states)


def tensors_of(state: Any, name: str = "state") -> Iterator[tuple[str, Any]]:
    """The tensors of a state, or what is there in their stead, each with where it is."""
    if type(state) is tuple or type(state) is dict:
        parts = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, part in parts:
            yield from tensors_of(part, f"{name}[{key!r}]")
    else:
        yield name, state


def device_of(state: Any) -> torch.device:
    """Where the tensors of a state are."""
    device: torch.device = next(tensors_of(state))[1].device
    return device


def rows_of(state: Any, rows: Any) -> Any:
    """The rows at an index of tensors, slice or mask."""
    return map_state(lambda tensor: tensor[rows], state)


def joined_states(states: Sequence[Any]) -> Any:
    """The rows of several states, one behind the other."""
    return map_state(lambda *tensors: torch.cat(tensors), *states)


def where_rows(which: Tensor, state: Any, other: Any) -> Any:
    """The rows of one state where ``which``, bool [n], is true, else those of the other."""
    return map_state(lambda own, others: torch.where(_beside(which, own), own, others), state, other)


def _beside(which: Tensor, tensor: Tensor) -> Tensor:
    return which.view(-1, *[1] * (tensor.dim() - 1))


def placed_state(state: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The state on a device, floating-point numbers in a precision."""
    return map_state(lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype), state)


@dataclass(frozen=True, eq=False)
class Packing:
    """Steps of sequences in the order in which they can be taken side by side: the first ones of all, then the second.

    Attributes:
        sequences: the sequences from the longest to the shortest, int64 [K].
        steps: the steps, int64 [D]: the first ones of all sequences, in that order, then the second ones, and so on.
        counts: how many sequences have a first step, a second, and so on, int64 on the CPU.
    """

    sequences: Tensor
    steps: Tensor
    counts: Tensor

    @classmethod
    def of(cls, sequences: Segments) -> Packing:
        """That of sequences of steps that lie end to end."""
        order = sequences.lengths.argsort(descending=True, stable=True)
        times = torch.arange(sequences.longest, device=sequences.device).unsqueeze(1)
        has_step = times < sequences.lengths[order]
        return cls(order, (sequences.starts[order] + times)[has_step], has_step.sum(1).cpu())

    def unpacked(self, values: Tensor) -> Tensor:
        """Values of the packed steps, [D, ...], where the steps were."""
        return values[self.steps.argsort()]

    def unsorted(self, state: Any) -> Any:
        """A state of the sequences from the longest to the shortest, in the order in which they were."""
        return rows_of(state, self.sequences.argsort())


def go_over(memory: Any, units: Tensor, sequences: Segments, state: Any) -> tuple[Tensor, Any]:
    """What a memory makes of whole sequences, which lie end to end.

    Args:
        memory: ``(units [n, U], state) -> (units [n, H], state)``. Where it has ``over_sequences``, that is asked.
        units: of all D steps, [D, U].
        sequences: the D steps cut into K sequences.
        state: before the first step of each sequence, K rows.

    Returns:
        Units [D, H], and the states after the last steps, K rows.
    """
    own = getattr(memory, "over_sequences", None)
    if own is not None:
        result: tuple[Tensor, Any] = own(units, sequences, state)
        return result
    packing = Packing.of(sequences)
    counts = packing.counts.tolist()
    state = rows_of(state, packing.sequences)
    outputs, finished = [], []
    for part, next_count in zip(units[packing.steps].split(counts), [*counts[1:], 0], strict=True):
        output, state = memory(part, state)
        outputs.append(output)
        if next_count < len(part):
            finished.append(rows_of(state, slice(next_count, None)))
            state = rows_of(state, slice(next_count))
    return packing.unpacked(torch.cat(outputs)), packing.unsorted(joined_states(finished[::-1]))
