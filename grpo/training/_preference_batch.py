"""Pairs made ready for evaluation, as an optimiser step sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo.config.update import UpdateConfig
from grpo.data.action_batches import ActionBatch, NoActions
from grpo.data.preferences import PairLogProbs, Preferences, paired_actions, paired_states
from grpo.data.segments import Segments
from grpo.distributed.world import World
from grpo.models._evaluator import Evaluator
from grpo.training._minibatches import WeightedRows
from grpo.training._shared_units import SharedUnits


@dataclass(frozen=True, slots=True)
class PairMicroBatch(WeightedRows):
    """Rows of whole pairs, whose loss has an entry, and a weight, for each pair.

    Attributes:
        pairs: the pairs, int64 of shape [K].
        samples: their decisions cut into 2K samples.
    """

    pairs: Tensor
    samples: Segments


@dataclass(frozen=True)
class PreferenceBatch:
    """P pairs as 2P encoded samples, chosen and rejected in turn.

    Attributes:
        batch: the samples encoded for a policy.
        rows: the R rows of the batch cut into pairs.
    """

    batch: ActionBatch
    rows: Segments

    @classmethod
    def of(cls, preferences: Preferences, evaluator: Evaluator) -> PreferenceBatch:
        """The pairs encoded for a policy."""
        pairs = Segments(len(preferences), 2)
        if len(preferences) == 0:
            return cls(NoActions(), pairs)
        batch = evaluator.encode(paired_states(preferences), paired_actions(preferences), pairs)
        rows = batch.rows.count_within(batch.samples)
        if rows.uniform_length is not None:
            return cls(batch, Segments(len(preferences), 2 * rows.uniform_length, rows.device))
        return cls(batch, Segments.of_lengths(rows.lengths.view(-1, 2).sum(1)))

    def __len__(self) -> int:
        return len(self.rows)

    def micro_batch(self, pairs: Tensor, weight: Tensor) -> PairMicroBatch:
        """The given pairs, int64 of shape [K], with the weight of each in the loss."""
        if len(pairs) == len(self) and bool((pairs.diff() == 1).all()):
            return PairMicroBatch(None, weight, pairs, self.batch.samples)
        samples = torch.stack((2 * pairs, 2 * pairs + 1), dim=1).view(-1)
        return PairMicroBatch(self.rows.positions(pairs), weight, pairs, self.batch.samples.select(samples))

    def micro_batches(
        self, pairs: Tensor, num_pairs: int, pairs_per_call: int | None, dtype: torch.dtype
    ) -> list[PairMicroBatch]:
        """The given pairs cut into consecutive parts, weighted so that the loss is a mean over ``num_pairs``."""
        if len(pairs) == 0:
            return []
        weight = torch.full((len(pairs),), 1 / num_pairs, dtype=dtype, device=pairs.device)
        size = pairs_per_call or len(pairs)
        return [self.micro_batch(*part) for part in zip(pairs.split(size), weight.split(size), strict=True)]

    def minibatches(
        self, config: UpdateConfig, generator: torch.Generator, dtype: torch.dtype, world: World
    ) -> Iterator[list[PairMicroBatch]]:
        """The micro-batches of each optimiser step, over all epochs; every epoch visits each pair once.

        Of a step whose pairs are all of other processes there are none.

        Pairs are shuffled where an epoch takes more than one optimiser step. Weights are of the ``dtype``.
        """
        units = SharedUnits.of(Segments(len(self), 1, self.rows.device), world)
        for _ in range(config.num_epochs_per_update):
            for visit in units.visits(config.batch_size, generator):
                yield self.micro_batches(visit.own, visit.num_units, config.micro_batch_size, dtype)

    def all(self, pairs_per_call: int | None, dtype: torch.dtype = torch.float32) -> list[PairMicroBatch]:
        """All pairs in their order, in consecutive parts with weights of the ``dtype``."""
        return self.micro_batches(torch.arange(len(self), device=self.rows.device), len(self), pairs_per_call, dtype)

    def log_probs(self, evaluator: Evaluator, part: PairMicroBatch, *, requires_gradient: bool = False) -> Tensor:
        """Log-probs of the chosen and the rejected action of each pair, [K, 2], nats."""
        evaluation = evaluator.evaluate(self.batch, part.rows, requires_gradient=requires_gradient)
        return part.samples.sum(evaluation.log_probs).view(-1, 2)

    def pair_log_probs(self, part: PairMicroBatch, log_probs: Tensor, reference_log_probs: Tensor) -> PairLogProbs:
        """What an objective is told of some pairs.

        Args:
            part: the pairs.
            log_probs: of their chosen and rejected actions, [K, 2].
            reference_log_probs: of those of all pairs, [P, 2].
        """
        reference = reference_log_probs[part.pairs].to(log_probs.dtype)
        lengths = part.samples.lengths.view(-1, 2)
        return PairLogProbs(*log_probs.unbind(1), *reference.unbind(1), *lengths.unbind(1))
