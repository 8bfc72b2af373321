"""Which rows an optimiser step sees, with the weight of each decision in its loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat

import torch
from torch import Tensor

from grpo.advantages.normalization import normalized_within
from grpo.config.rollout import LossAveraging, TrainerConfig
from grpo.data.action_batches import ActionBatch
from grpo.data.decisions import Decisions
from grpo.data.segments import Segments
from grpo.data.shared_segments import SharedSegments
from grpo.distributed.world import World
from grpo.training._shared_units import SharedUnits, Visit, packed


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """The part of an optimiser step that goes through the policy at once.

    Attributes:
        rows: the rows, int64 of shape [K]; None for all of them.
        weight: of each entry of their loss.
    """

    rows: Tensor | None
    weight: Tensor


@dataclass(frozen=True, slots=True)
class MicroBatch(WeightedRows):
    """Rows whose loss has an entry, and a weight, for each of their D' decisions.

    Attributes:
        decisions: what the objective is told of them.
    """

    decisions: Decisions


def iterate_minibatches(
    batch: ActionBatch,
    decisions: Decisions,
    weights: LossWeights,
    config: TrainerConfig,
    whole_samples: bool,
    generator: torch.Generator,
    world: World,
) -> Iterator[list[MicroBatch] | None]:
    """The micro-batches of each optimiser step, over all epochs; every epoch visits each row once.

    Rows are shuffled where an epoch takes more than one optimiser step. With ``whole_samples`` it is samples that are
    shuffled, and a sample goes into the minibatch that its first row falls into, so that sizes are kept nearly. What
    depends on an optimiser step as a whole, on all processes, weights and normalised advantages, is computed before it
    is split. An optimiser step in which no decision has any weight comes as None; one of which this process has no
    rows, as an empty list.
    """
    rows = batch.rows.count_within(batch.samples) if whole_samples else Segments(len(batch.rows), 1, batch.rows.device)
    units, unit_decisions = SharedUnits.of(rows, world), batch.samples if whole_samples else batch.rows
    epochs = config.num_epochs_per_update

    def epoch() -> Iterator[list[MicroBatch] | None]:
        visits = list(units.visits(config.batch_size, generator))
        parts = [packed(rows, visit.own, config.micro_batch_size) for visit in visits]
        return _micro_batches(decisions, weights, config, rows, unit_decisions, visits, parts, world)

    if not units.is_one_step(config.batch_size):
        for _ in range(epochs):
            yield from epoch()
    elif len(rows) > 0 and (config.micro_batch_size is None or config.micro_batch_size >= rows.total):
        yield from repeat(_everything(decisions, weights, config, unit_decisions, world), epochs)
    else:
        yield from chain.from_iterable(repeat(list(epoch()), epochs))


def _everything(
    decisions: Decisions, weights: LossWeights, config: TrainerConfig, unit_decisions: Segments, world: World
) -> list[MicroBatch] | None:
    """An optimiser step of all rows at once, for which nothing is gathered."""
    step = SharedSegments.whole(unit_decisions.total, unit_decisions.device, world)
    decisions = _with_final_advantages(decisions, step, config)
    if unit_decisions is not decisions.samples:
        decisions = replace(decisions, samples=unit_decisions)
    weight, [has_weight] = weights.within(step)
    return [MicroBatch(None, weight, decisions)] if has_weight else None


def _with_final_advantages(decisions: Decisions, steps: SharedSegments, config: TrainerConfig) -> Decisions:
    """Advantages normalised over each optimiser step, where the config asks for it, and weighted by importance."""
    advantages = decisions.advantages
    if config.advantage_normalization == "per_minibatch":
        advantages = normalized_within(advantages, steps)
    if decisions.importance_weights is not None:
        advantages = advantages * decisions.importance_weights
    return decisions if advantages is decisions.advantages else replace(decisions, advantages=advantages)


def _micro_batches(
    decisions: Decisions,
    weights: LossWeights,
    config: TrainerConfig,
    rows: Segments,
    unit_decisions: Segments,
    visits: list[Visit],
    parts: list[list[Tensor]],
    world: World,
) -> Iterator[list[MicroBatch] | None]:
    """An epoch's optimiser steps, each of some ``parts``, in which the decisions are gathered and split at once."""
    order = torch.cat([visit.own for visit in visits])
    samples = [[unit_decisions.select(part) for part in step] for step in parts]
    flat = [part for step in samples for part in step]
    lengths = [sum(part.total for part in step) for step in samples]
    steps = SharedSegments.of_lengths(lengths, unit_decisions.device, world)
    positions = unit_decisions.positions(order)
    visited = _with_final_advantages(decisions.select(positions), steps, config).split(flat)
    weight, has_weight = weights.select(positions).within(steps)
    weight_parts = weight.split([part.total for part in flat])
    part_rows = [rows.positions(part) for step in parts for part in step]
    micro_batches = map(MicroBatch, part_rows, weight_parts, visited)
    for step, has_any in zip(parts, has_weight, strict=True):
        minibatch = list(islice(micro_batches, len(step)))
        yield minibatch if has_any else None


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the decisions in the loss of an optimiser step, numerator / (sum of the denominators over the step).

    Averaging is nothing but this choice of weights. Since the denominator is summed over the whole optimiser step
    before any part of it goes backward, no split into micro-batches can change the gradient.

    Attributes:
        numerator: [D].
        denominator: [D].
        masked: whether some decisions may weigh nothing.
    """

    numerator: Tensor
    denominator: Tensor
    masked: bool = False

    @classmethod
    def of(cls, averaging: LossAveraging, samples: Segments, dtype: torch.dtype) -> LossWeights:
        """The weights of one way of averaging; see :class:`grpo.TrainerConfig`.

        Example:
            >>> weights = LossWeights.of("per_sample", Segments.of_lengths([1, 3]), torch.float32)
            >>> weights.numerator / weights.denominator.sum()
            tensor([0.5000, 0.1667, 0.1667, 0.1667])
        """
        if averaging == "per_decision":
            ones = torch.ones(samples.total, dtype=dtype, device=samples.device)
            return cls(ones, ones)
        if samples.uniform_length is not None:
            share = torch.full((samples.total,), 1 / samples.uniform_length, dtype=dtype, device=samples.device)
        else:
            share = samples.expand(samples.lengths.to(dtype).reciprocal())
        if averaging == "per_sample":
            return cls(share, share)
        return cls(torch.full_like(share, 1 / averaging), share)

    def select(self, positions: Tensor) -> LossWeights:
        """Those of the decisions at ``positions``, int64."""
        return LossWeights(self.numerator[positions], self.denominator[positions], self.masked)

    def where(self, kept: Tensor, *, keeps_denominator: bool = False) -> LossWeights:
        """The same for the decisions where ``kept``, bool of shape [D], is true; the others weigh nothing.

        With ``keeps_denominator`` those that are kept weigh what they did, otherwise more.

        Example:
            >>> weights = LossWeights.of("per_sample", Segments.of_lengths([1, 3]), torch.float32)
            >>> weights.where(torch.tensor([False, True, True, True])).within(SharedSegments.whole(4))
            (tensor([0.0000, 0.3333, 0.3333, 0.3333]), [True])
        """
        denominator = self.denominator if keeps_denominator else self.denominator * kept
        return LossWeights(self.numerator * kept, denominator, masked=True)

    def within(self, steps: SharedSegments) -> tuple[Tensor, list[bool]]:
        """The weights, [D], where the decisions are cut into optimiser steps, and whether each step has any."""
        if not self.masked:
            return self.numerator / steps.expand(steps.sum(self.denominator)), [True] * steps.count
        denominator, numerator = steps.sums(self.denominator, self.numerator)
        return self.numerator / steps.expand(denominator), (numerator > 0).tolist()
