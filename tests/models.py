"""Small models that tests train and break: a minimal policy, padded sequences, independent steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grpo import Evaluation, Segments, TensorBatch, ValueEstimates


class Quiet:
    """The methods that do nothing in most models."""

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None: ...


class TablePolicy(Quiet):
    """A minimal policy: a categorical distribution over actions for each of a few integer states."""

    def __init__(self, num_states: int = 3, num_actions: int = 4, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(7)
        self.logits = torch.randn(num_states, num_actions, generator=generator, dtype=dtype).requires_grad_()

    def generate_actions(self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> list[list[int]]:
        probabilities = self.logits.detach()[torch.tensor(states)].softmax(-1)
        groups: list[list[int]] = torch.multinomial(probabilities, num_actions_per_state, replacement=True).tolist()
        return groups

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[int]) -> Tensor:
        return self.logits.log_softmax(-1)[torch.tensor(states), torch.tensor(actions)]

    def get_parameters(self) -> dict[str, Tensor]:
        return {"logits": self.logits}


class SequentialTablePolicy(TablePolicy):
    """The same policy, written as a SequentialPolicy."""

    def encode_actions(self, states: Sequence[int], actions: Sequence[int]) -> TensorBatch:
        return TensorBatch(torch.tensor(states), torch.tensor(actions))

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        return Evaluation(self.logits.log_softmax(-1)[batch.observations, batch.actions])


class PaddedBatch:
    """Token sequences padded to a rectangle: a sample is a row of several decisions."""

    def __init__(self, starts: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        self.starts = starts
        self.tokens = tokens
        self.lengths = lengths
        self.samples = self.rows = Segments.of_lengths(lengths)

    def select(self, rows: Tensor) -> PaddedBatch:
        return PaddedBatch(self.starts[rows], self.tokens[rows], self.lengths[rows])


class SequencePolicy(Quiet):
    """Sequences of tokens that end with token 0 or after six: a little language model.

    Args:
        padding: the token that fills the rectangle; no evaluation may depend on it.
    """

    def __init__(self, num_tokens: int = 4, padding: int = 0, max_length: int = 6) -> None:
        generator = torch.Generator().manual_seed(11)
        shape = (num_tokens, num_tokens)
        self.transitions = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        self.padding = padding
        self.max_length = max_length

    def generate_actions(
        self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> list[list[tuple[int, ...]]]:
        return [[self._sample(state) for _ in range(num_actions_per_state)] for state in states]

    def _sample(self, state: int) -> tuple[int, ...]:
        tokens: list[int] = []
        previous = state
        while len(tokens) < self.max_length and (not tokens or tokens[-1] != 0):
            previous = int(torch.multinomial(self.transitions.detach()[previous].softmax(-1), 1))
            tokens.append(previous)
        return tuple(tokens)

    def encode_actions(self, states: Sequence[int], actions: Sequence[tuple[int, ...]]) -> PaddedBatch:
        lengths = torch.tensor([len(action) for action in actions])
        tokens = torch.full((len(actions), int(lengths.max())), self.padding)
        for row, action in enumerate(actions):
            tokens[row, : len(action)] = torch.tensor(action)
        return PaddedBatch(torch.tensor(states), tokens, lengths)

    def evaluate_actions(self, batch: PaddedBatch) -> Evaluation:
        previous = torch.cat((batch.starts.unsqueeze(1), batch.tokens[:, :-1]), dim=1)
        table = self.transitions.log_softmax(-1)
        valid = torch.arange(batch.tokens.shape[1]) < batch.lengths.unsqueeze(1)
        entropy = -(table.exp() * table).sum(-1)
        return Evaluation(table[previous, batch.tokens][valid], entropy[previous][valid])

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[tuple[int, ...]]) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_parameters(self) -> dict[str, Tensor]:
        return {"transitions": self.transitions}


class EpisodePolicy(SequencePolicy):
    """The same sequences, every token a row of its own, as the steps of an episode are."""

    def encode_actions(self, states: Sequence[int], actions: Sequence[tuple[int, ...]]) -> TensorBatch:  # type: ignore[override]
        previous = [token for state, action in zip(states, actions, strict=True) for token in (state, *action[:-1])]
        tokens = [token for action in actions for token in action]
        samples = Segments.of_lengths([len(action) for action in actions])
        return TensorBatch(torch.tensor(previous), torch.tensor(tokens), samples)

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:  # type: ignore[override]
        table = self.transitions.log_softmax(-1)
        entropy = -(table.exp() * table).sum(-1)
        return Evaluation(table[batch.observations, batch.actions], entropy[batch.observations])

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[tuple[int, ...]]) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)


Step = tuple[int, int, int]
"""Where a walker stood, its move (0 is back, 1 is on), and where that led."""
Walk = list[list[Step]]
"""One or several episodes, one after another."""


@dataclass(frozen=True, slots=True)
class WalkBatch:
    """The steps of walks: every step is a row, a sample may hold several episodes."""

    positions: Tensor
    moves: Tensor
    next_positions: Tensor
    samples: Segments
    episodes: Segments

    @property
    def rows(self) -> Segments:
        return Segments(self.samples.total, 1)

    def select(self, rows: Tensor) -> WalkBatch:
        single = Segments(len(rows), 1)
        return WalkBatch(self.positions[rows], self.moves[rows], self.next_positions[rows], single, single)


class WalkerPolicy(Quiet):
    """Walks along a corridor, with a critic: tables of logits and of values of each position.

    An episode starts at the state, a position, and terminates at the end of the corridor; where ``max_length`` steps do
    not get there, it is cut short.

    Args:
        num_positions: positions before the end of the corridor.
        num_episodes: episodes in each sample.
        max_length: steps of an episode at the most.
        spread: scale of the random tables; 0 is a policy that tosses a coin and a critic that expects nothing.
    """

    def __init__(self, num_positions: int = 4, num_episodes: int = 2, max_length: int = 8, spread: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(13)
        logits = spread * torch.randn(num_positions, 2, generator=generator, dtype=torch.float64)
        self.logits = logits.requires_grad_()
        values = spread * torch.randn(num_positions + 1, generator=generator, dtype=torch.float64)
        self.values = values.requires_grad_()
        self.num_positions = num_positions
        self.num_episodes = num_episodes
        self.max_length = max_length

    def generate_actions(self, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> list[list[Walk]]:
        probabilities = self.logits.detach().softmax(-1)[:, 1].tolist()
        return [
            [
                [self._episode(state, probabilities) for _ in range(self.num_episodes)]
                for _ in range(num_actions_per_state)
            ]
            for state in states
        ]

    def _episode(self, position: int, probabilities: Sequence[float]) -> list[Step]:
        steps: list[Step] = []
        while len(steps) < self.max_length and position < self.num_positions:
            move = int(torch.rand(()).item() < probabilities[position])
            after = max(position - 1, 0) if move == 0 else position + 1
            steps.append((position, move, after))
            position = after
        return steps

    def encode_actions(self, states: Sequence[int], actions: Sequence[Walk]) -> WalkBatch:
        episodes = [episode for walk in actions for episode in walk]
        positions, moves, next_positions = torch.tensor([step for episode in episodes for step in episode]).unbind(-1)
        return WalkBatch(
            positions,
            moves,
            next_positions,
            Segments.of_lengths([sum(len(episode) for episode in walk) for walk in actions]),
            Segments.of_lengths([len(episode) for episode in episodes]),
        )

    def evaluate_actions(self, batch: WalkBatch) -> Evaluation:
        table = self.logits.log_softmax(-1)
        entropy = -(table.exp() * table).sum(-1)
        return Evaluation(table[batch.positions, batch.moves], entropy[batch.positions], self.values[batch.positions])

    def estimate_values(self, batch: WalkBatch) -> ValueEstimates:
        terminated = batch.next_positions == self.num_positions
        after = self.values[batch.next_positions].masked_fill(terminated, 0.0)
        return ValueEstimates(self.values[batch.positions], after)

    def get_log_probabilities(self, states: Sequence[int], actions: Sequence[Walk]) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_parameters(self) -> dict[str, Tensor]:
        return {"logits": self.logits, "values": self.values}


class StepRewards(Quiet):
    """A reward for every step of a walk: what reaching the end is worth, less what a step costs.

    Args:
        end: where the corridor ends.
    """

    def __init__(self, end: int = 4, prize: float = 1.0, cost: float = 0.1) -> None:
        self.end = end
        self.prize = prize
        self.cost = cost

    def compute_rewards(self, states: Sequence[int], actions: Sequence[Walk]) -> Tensor:
        afters = [after for walk in actions for episode in walk for _, _, after in episode]
        return torch.tensor([self.prize * (after == self.end) - self.cost for after in afters], dtype=torch.float64)


class FunctionRewards(Quiet):
    """Rewards from any function of a state and an action."""

    def __init__(self, function: Callable[[Any, Any], float], dtype: torch.dtype = torch.float64) -> None:
        self.function = function
        self.dtype = dtype

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Any]) -> Tensor:
        pairs = zip(states, actions, strict=True)
        return torch.tensor([self.function(state, action) for state, action in pairs], dtype=self.dtype)


def parameter_values(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the parameters."""
    return {name: tensor.detach().clone() for name, tensor in parameters.items()}


def cut_short(actions: Sequence[tuple[int, ...]]) -> Tensor:
    """Whether each sequence lacks its final token 0."""
    return torch.tensor([action[-1] != 0 for action in actions])


class TruncatingPaddedBatch(PaddedBatch):
    """Padded sequences that tell which of them were cut short."""

    truncated: Tensor


class TruncatingTensorBatch(TensorBatch):
    """Steps of episodes that tell which of the episodes were cut short."""

    truncated: Tensor


class TruncatingSequencePolicy(SequencePolicy):
    """Sequences that are cut short at ``max_length``, and say so."""

    def encode_actions(self, states: Sequence[int], actions: Sequence[tuple[int, ...]]) -> TruncatingPaddedBatch:
        plain = super().encode_actions(states, actions)
        batch = TruncatingPaddedBatch(plain.starts, plain.tokens, plain.lengths)
        batch.truncated = cut_short(actions)
        return batch


class TruncatingEpisodePolicy(EpisodePolicy):
    """The same, every token a row of its own."""

    def encode_actions(self, states: Sequence[int], actions: Sequence[tuple[int, ...]]) -> TruncatingTensorBatch:  # type: ignore[override]
        plain = super().encode_actions(states, actions)
        batch = TruncatingTensorBatch(plain.observations, plain.actions, plain.samples)
        batch.truncated = cut_short(actions)
        return batch
