"""Samples made ready for evaluation, all of it flat: N samples, their D decisions end to end, R rows to evaluate.

A *sample* is one action given to one state. It is made of one or more *decisions*: a pull of a bandit's arm, the
tokens of a completion, the steps of an episode. A *row* is the least that a policy can evaluate by itself: a whole
sample, or one decision where decisions are independent given what was observed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.data.batches import select_entries
from grpo.data.segments import Segments


@runtime_checkable
class HasEpisodes(Protocol):
    """What an :class:`ActionBatch` may have besides, where a sample is not one whole episode."""

    @property
    def episodes(self) -> Segments:
        """The D decisions cut where the next one belongs to another episode, and at the end of every sample."""
        ...


@runtime_checkable
class HasTurns(Protocol):
    """What an :class:`ActionBatch` may have besides, where a sample is a conversation of several turns.

    A turn is what was decided between two answers of the environment: the tokens of one message, say. Credit over time
    then goes by turns, of which each is one step of time, however many decisions it has (:class:`grpo.MonteCarlo`).
    """

    @property
    def turns(self) -> Segments:
        """The D decisions cut into turns, each within one episode; without it every decision is a turn of its own."""
        ...


@runtime_checkable
class HasTruncations(Protocol):
    """What an :class:`ActionBatch` may have besides, where samples can be cut short: at a maximal length, say."""

    @property
    def truncated(self) -> Tensor:
        """Whether each sample was cut short rather than came to its end, bool of shape [N]."""
        ...


@runtime_checkable
class HasSamplingLogProbs(Protocol):
    """What an :class:`ActionBatch` may have besides, where who sampled knows the log-probs that it drew with.

    They are compared with the policy's own at every step, and the loss may be corrected by their ratio
    (:class:`grpo.ImportanceCorrection`).
    """

    @property
    def sampling_log_probs(self) -> Tensor:
        """Log-prob of each decision under the distribution that it was drawn from, [D], nats."""
        ...


@runtime_checkable
class ActionBatch(Protocol):
    """Samples made ready for evaluation: tokenised, stacked, padded, whatever the policy needs to do once a step.

    The decisions of a row are contiguous, those of a sample too, and rows and samples come in the same order.
    """

    @property
    def samples(self) -> Segments:
        """The D decisions cut into N samples. It lives on the device of the log-probs."""
        ...

    @property
    def rows(self) -> Segments:
        """The D decisions cut into R rows."""
        ...

    def select(self, rows: Tensor) -> Self:
        """The batch of the given rows, int64 of shape [K], in the order given; in it every row is a sample."""
        ...


class TensorBatch:
    """A ready batch for policies whose decisions are independent given an observation: every decision is a row.

    Args:
        observations: what each decision was based on, [D, ...].
        actions: what was decided, [D, ...].
        samples: the decisions of each sample; one each where left out.

    Raises:
        ValueError: if observations, actions and samples do not count the same decisions.

    Example:
        >>> import torch
        >>> batch = TensorBatch(torch.zeros(3, 4), torch.tensor([2, 0, 1]), Segments.of_lengths([2, 1]))
        >>> len(batch.samples), len(batch.rows), batch.select(torch.tensor([2, 0])).actions
        (2, 3, tensor([1, 2]))
    """

    __slots__ = ("actions", "observations", "rows", "samples")

    def __init__(self, observations: Tensor, actions: Tensor, samples: Segments | None = None) -> None:
        self.observations = observations
        self.actions = actions
        self.rows = Segments(actions.shape[0], 1, actions.device)
        self.samples = self.rows if samples is None else samples
        if not observations.shape[0] == actions.shape[0] == self.samples.total:
            raise ValueError(
                f"TensorBatch needs an observation and an action for every decision: got {len(observations)} "
                f"observations, {len(actions)} actions and samples of {self.samples.total} decisions"
            )

    def select(self, rows: Tensor) -> TensorBatch:
        """The decisions at ``rows``, each a sample of its own."""
        return TensorBatch(self.observations[rows], self.actions[rows])


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs of a state and an action for a minimal policy: every pair is one sample, one row and one decision.

    Attributes:
        states: the state of each pair, N entries.
        actions: the action of each pair, N entries.
        samples: one decision a sample.

    Example:
        >>> batch = PairBatch(["a", "b", "c"], [0, 1, 2], Segments(3, 1))
        >>> part = batch.select(torch.tensor([2, 0]))
        >>> part.states, part.actions, len(part.samples)
        (['c', 'a'], [2, 0], 2)
    """

    states: Any
    actions: Any
    samples: Segments

    @property
    def rows(self) -> Segments:
        """One row a pair."""
        return self.samples

    def select(self, rows: Tensor) -> PairBatch:
        """The pairs at ``rows``."""
        return PairBatch(
            select_entries(self.states, rows), select_entries(self.actions, rows), self.samples.select(rows)
        )


class NoActions:
    """The batch of a process that has no samples while others have.

    Args:
        device: where theirs are.
        tells: what batches of the others have besides, ``"truncated"`` or ``"sampling_log_probs"``.
    """

    __slots__ = ("rows", "samples", "sampling_log_probs", "truncated")

    def __init__(self, device: torch.device | str | None = None, tells: Collection[str] = ()) -> None:
        self.samples = self.rows = Segments(0, 1, device)
        self.truncated = torch.zeros(0, dtype=torch.bool, device=device) if "truncated" in tells else None
        self.sampling_log_probs = torch.zeros(0, device=device) if "sampling_log_probs" in tells else None

    def select(self, rows: Tensor) -> Self:
        """Itself: there are no rows."""
        return self
