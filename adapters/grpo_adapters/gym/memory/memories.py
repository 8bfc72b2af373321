"""Memories that policies may have: what they remember is learnt, or the last units as they were."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from grpo import Segments
from grpo_adapters.gym.memory.memory_states import Packing, map_state, rows_of


class _Recurrence(nn.Module):
    """Layers of PyTorch's, whose states come with the rows first, [n, num_layers, num_units]."""

    kind: ClassVar[Any]

    def __init__(self, num_inputs: int, num_units: int, *, num_layers: int = 1) -> None:
        super().__init__()
        self.layers = self.kind(num_inputs, num_units, num_layers)
        for name, parameter in self.layers.named_parameters():
            if name.startswith("weight"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, units: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """A step: units [n, num_inputs] and the state before, None for zeros, to units [n, num_units] and a state."""
        outputs, state = self.layers(units.unsqueeze(0), _swapped(state))
        return outputs.squeeze(0), _swapped(state)

    def over_sequences(self, units: Tensor, sequences: Segments, state: Any) -> tuple[Tensor, Any]:
        """All steps of sequences, which lie end to end, [D, num_inputs], in one call: units [D, num_units] and states.

        Args:
            units: of all D steps.
            sequences: the D steps cut into K sequences.
            state: before the first steps, K rows.
        """
        if sequences.uniform_length is not None:
            table = units.view(len(sequences), sequences.uniform_length, -1).transpose(0, 1)
            outputs, last = self.layers(table, _swapped(state))
            return outputs.transpose(0, 1).reshape(len(units), -1), _swapped(last)
        packing = Packing.of(sequences)
        steps = PackedSequence(units[packing.steps], packing.counts)
        outputs, last = self.layers(steps, _swapped(rows_of(state, packing.sequences)))
        return packing.unpacked(outputs.data), packing.unsorted(_swapped(last))


def _swapped(state: Any) -> Any:
    """A state with its rows first where layers were, or the other way round; None as it is."""
    return None if state is None else map_state(lambda tensor: tensor.transpose(0, 1).contiguous(), state)


class LSTM(_Recurrence):
    """Long short-term memory: :class:`torch.nn.LSTM` as a policy's ``memory``. It begins from zeros.

    Its state is a tuple of the hidden units and the cells, [n, num_layers, num_units] each. Weights are orthogonal, and
    biases zero.

    Args:
        num_inputs: units that it is given.
        num_units: units that each layer has.
        num_layers: one upon the other.

    References:
        Hochreiter and Schmidhuber 1997.

    Example:
        >>> memory = LSTM(4, 8)
        >>> units, state = memory(torch.zeros(3, 4))
        >>> units.shape, state[0].shape
        (torch.Size([3, 8]), torch.Size([3, 1, 8]))
    """

    kind = nn.LSTM


class GRU(_Recurrence):
    """Gated recurrent units: :class:`torch.nn.GRU` as a policy's ``memory``. It begins from zeros.

    Its state is one tensor, [n, num_layers, num_units]; all else is as for :class:`LSTM`.

    References:
        Cho et al. 2014, arXiv:1406.1078.

    Example:
        >>> import gymnasium
        >>> from grpo_adapters.gym import GymPolicy
        >>> policy = GymPolicy(gymnasium.make("CartPole-v1"), memory=GRU(4, 8, num_layers=2))  # 4 numbers are seen
        >>> units, state = policy.memory(torch.zeros(3, 4))
        >>> units.shape, state.shape
        (torch.Size([3, 8]), torch.Size([3, 2, 8]))
    """

    kind = nn.GRU


class StackedUnits(nn.Module):
    """A memory of the last units as they were: those of ``length`` steps side by side, the present ones last.

    Steps before the episode began count as zeros. Its state is a tuple of the units of the steps before,
    [n, length - 1, U], and of whether there was such a step, bool [n, length - 1].

    Args:
        length: steps, at least 2.

    Raises:
        ValueError: if ``length`` is below 2.

    Example:
        >>> memory = StackedUnits(length=2)
        >>> first, state = memory(torch.tensor([[1.0, 2.0]]))
        >>> memory(torch.tensor([[3.0, 4.0]]), state)[0]
        tensor([[1., 2., 3., 4.]])
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        if type(length) is not int or length < 2:
            raise ValueError(f"length is {length!r}, expected an integer of at least 2 steps: one remembers nothing")
        self.length = length

    def forward(self, units: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """A step: units [n, U] and the state before it, None for an episode's beginning, to units and a state."""
        before, was_there = self._nothing(units) if state is None else state
        recent = torch.cat((before, units.unsqueeze(1)), 1)
        is_there = torch.cat((was_there, was_there.new_ones(len(units), 1)), 1)
        return self.read(recent, is_there), (recent[:, 1:], is_there[:, 1:])

    def _nothing(self, units: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(units), self.length - 1)
        return units.new_zeros(*shape, units.shape[1]), torch.zeros(shape, dtype=torch.bool, device=units.device)

    def over_sequences(self, units: Tensor, sequences: Segments, state: Any) -> tuple[Tensor, Any]:
        """All steps of sequences, which lie end to end, [D, U], in one call: units and the states after the last ones.

        Args:
            units: of all D steps.
            sequences: the D steps cut into K sequences.
            state: before the first steps, K rows.
        """
        before, was_there = state
        num_before = self.length - 1
        steps = torch.arange(len(units), device=units.device)
        age = torch.arange(num_before, -1, -1, device=units.device)
        step_in_sequence = (steps - sequences.expand(sequences.starts)).unsqueeze(1) - age
        in_state = sequences.ids.unsqueeze(1) * num_before + num_before + step_in_sequence
        in_units = before.shape[0] * num_before + steps.unsqueeze(1) - age
        place = torch.where(step_in_sequence < 0, in_state, in_units)
        recent = torch.cat((before.flatten(0, 1), units))[place]
        is_there = torch.cat((was_there.flatten(), was_there.new_ones(len(units))))[place]
        last = sequences.last
        return self.read(recent, is_there), (recent[last, 1:], is_there[last, 1:])

    def read(self, recent: Tensor, is_there: Tensor) -> Tensor:
        """Units [n, H] from those of the last steps, [n, length, U], zeros where no step ``is_there``."""
        return recent.flatten(1)
