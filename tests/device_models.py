"""Small models on any device and in any precision: a minimal policy, the same with decisions, sequences with a critic.

All of them draw on their own device, by operations that are deterministic there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from models import Quiet
from torch import Tensor, nn

from grpo import Evaluation, Segments, TensorBatch, ValueEstimates

Place = torch.device | str


class OnDevice:
    """Tensors that are trained, in ``self.tables``, and a generator where they are.

    Args:
        device: of both.
        dtype: of the tensors.
        shapes: of the tensors, by name.
    """

    def __init__(self, device: Place, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]]) -> None:
        seeded = torch.Generator().manual_seed(7)
        values = {name: torch.randn(shape, generator=seeded) for name, shape in shapes.items()}
        self.tables = nn.ParameterDict({name: value.to(device, dtype) for name, value in values.items()})
        self.generator = torch.Generator(device).manual_seed(3)

    @property
    def device(self) -> torch.device:
        return next(self.tables.parameters()).device

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Place) -> None:
        self.tables.to(device)
        if self.generator.device != self.device:
            self.generator = torch.Generator(self.device).manual_seed(3)

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.tables.named_parameters())

    def drawn(self, logits: Tensor) -> Tensor:
        """An index for each row of logits [..., K], by Gumbel noise."""
        noise = torch.empty(logits.shape, device=self.device).exponential_(generator=self.generator)
        chosen: Tensor = (logits.detach().float() - noise.log()).argmax(-1)
        return chosen


class TableOnDevice(OnDevice):
    """A minimal policy: a categorical distribution over actions for each of a few integer states, all in tensors."""

    def __init__(self, device: Place, dtype: torch.dtype = torch.float32, num_states: int = 3) -> None:
        super().__init__(device, dtype, {"logits": (num_states, 5)})

    def generate_actions(self, states: Tensor, num_actions_per_state: int, **kwargs: Any) -> Tensor:
        return self.drawn(
            self.tables["logits"][states.to(self.device)].repeat_interleave(num_actions_per_state, 0)
        ).view(len(states), num_actions_per_state)

    def get_log_probabilities(self, states: Tensor, actions: Tensor) -> Tensor:
        log_probs: Tensor = self.tables["logits"].log_softmax(-1)[states.to(self.device), actions]
        return log_probs


class SequentialTableOnDevice(TableOnDevice):
    """The same policy, written as a SequentialPolicy."""

    def encode_actions(self, states: Tensor, actions: Tensor) -> TensorBatch:
        return TensorBatch(states.to(self.device), actions)

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        return Evaluation(self.tables["logits"].log_softmax(-1)[batch.observations, batch.actions])


Sentence = tuple[int, ...]


@dataclass(frozen=True)
class SentenceBatch:
    """Sequences of different lengths: a row is a sample."""

    previous: Tensor
    tokens: Tensor
    samples: Segments
    truncated: Tensor

    @property
    def rows(self) -> Segments:
        return self.samples

    def select(self, rows: Tensor) -> SentenceBatch:
        chosen = self.samples.positions(rows)
        return SentenceBatch(
            self.previous[chosen], self.tokens[chosen], self.samples.select(rows), self.truncated[rows]
        )


class SentencesOnDevice(OnDevice):
    """Sequences of tokens that end with token 0 or after six, with a critic. States are integers, the first token."""

    MOST = 6
    NUM_TOKENS = 5

    def __init__(self, device: Place, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(
            device, dtype, {"transitions": (self.NUM_TOKENS, self.NUM_TOKENS), "expected": (self.NUM_TOKENS,)}
        )

    def generate_actions(
        self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> list[list[Sentence]]:
        previous = torch.tensor(states, device=self.device).repeat_interleave(num_actions_per_state)
        columns = []
        for _ in range(self.MOST):
            previous = self.drawn(self.tables["transitions"][previous])
            columns.append(previous)
        rows = [tuple(row[: row.index(0) + 1] if 0 in row else row) for row in torch.stack(columns, 1).tolist()]
        return [rows[first : first + num_actions_per_state] for first in range(0, len(rows), num_actions_per_state)]

    def encode_actions(self, states: Sequence[int], actions: Sequence[Sentence]) -> SentenceBatch:
        previous = [token for state, action in zip(states, actions, strict=True) for token in (state, *action[:-1])]
        return SentenceBatch(
            torch.tensor(previous, device=self.device),
            torch.tensor([token for action in actions for token in action], device=self.device),
            Segments.of_lengths([len(action) for action in actions], self.device),
            torch.tensor([action[-1] != 0 for action in actions], device=self.device),
        )

    def evaluate_actions(self, batch: SentenceBatch) -> Evaluation:
        table = self.tables["transitions"].log_softmax(-1)
        entropy = -(table.exp() * table).sum(-1)
        values = self.tables["expected"][batch.previous]
        return Evaluation(table[batch.previous, batch.tokens], entropy[batch.previous], values)

    def estimate_values(self, batch: SentenceBatch) -> ValueEstimates:
        values = self.tables["expected"].detach()
        after = values[batch.tokens].index_fill(0, batch.samples.last, 0.0)
        return ValueEstimates(values[batch.previous], after)

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[Sentence]) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)


class MovableRewards(Quiet):
    """Rewards by a function of a state and an action, on a device.

    Args:
        function: of a state and an action, both as they are in Python.
        device: of the rewards.
    """

    def __init__(self, function: Any, device: Place = "cpu") -> None:
        self.function = function
        self.device = device

    def to(self, device: Place) -> None:
        self.device = device

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        if isinstance(actions, Tensor):
            states, actions = states.tolist(), actions.tolist()
        values = [float(self.function(state, action)) for state, action in zip(states, actions, strict=True)]
        return torch.tensor(values, device=self.device)


def share_of_ones(state: int, sentence: Sentence) -> float:
    """How much of a sequence is token 1: what :class:`SentencesOnDevice` is rewarded with."""
    return sentence.count(1) / len(sentence)
