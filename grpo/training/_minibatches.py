"""Which rows an optimiser step sees, with the weight of each decision in its loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, repeat

import torch
from torch import Tensor

from grpo.advantages.group_relative import group_normalized_advantages
from grpo.config.rollout import LossAveraging, TrainerConfig
from grpo.data.action_batches import ActionBatch
from grpo.data.decisions import Decisions
from grpo.data.experience import GroupedRewards
from grpo.data.segments import Segments


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
) -> Iterator[list[MicroBatch]]:
    """The micro-batches of each optimiser step, over all epochs; every epoch visits each row once.

    Rows are shuffled where an epoch takes more than one optimiser step. With ``whole_samples`` it is samples that are
    shuffled, and a sample goes into the minibatch that its first row falls into, so that sizes are kept nearly. What
    depends on an optimiser step as a whole, weights and normalised advantages, is computed before it is split.
    An optimiser step in which no decision has any weight comes as an empty list.
    """
    units = batch.rows.count_within(batch.samples) if whole_samples else Segments(len(batch.rows), 1, batch.rows.device)
    unit_decisions = batch.samples if whole_samples else batch.rows
    is_one_step = config.batch_size is None or config.batch_size >= units.total
    is_one_part = is_one_step and (config.micro_batch_size is None or config.micro_batch_size >= units.total)
    if is_one_part:
        step = Segments(1, unit_decisions.total, unit_decisions.device)
        all_decisions = _with_final_advantages(decisions, step, config)
        if unit_decisions is not all_decisions.samples:
            all_decisions = replace(all_decisions, samples=unit_decisions)
        whole = [MicroBatch(None, weights.within(step), all_decisions)] if all(weights.are_any(step)) else []
        yield from repeat(whole, config.num_epochs_per_update)
        return
    for _ in range(config.num_epochs_per_update):
        if is_one_step:
            order = torch.arange(len(units), device=units.device)
        else:
            order = torch.randperm(len(units), generator=generator).to(units.device)
        parts = [_pack(units, chosen, config.micro_batch_size) for chosen in _pack(units, order, config.batch_size)]
        yield from _micro_batches(decisions, weights, config, units, unit_decisions, order, parts)


def _pack(units: Segments, chosen: Tensor, num_rows: int | None) -> list[Tensor]:
    """Cut the chosen units into consecutive packs of about ``num_rows`` rows; one pack for None."""
    if num_rows is None:
        return [chosen]
    if units.uniform_length == 1:
        return list(chosen.split(num_rows))
    packs = units.select(chosen).starts.div(num_rows, rounding_mode="floor")
    return list(chosen.split(packs.unique_consecutive(return_counts=True)[1].tolist()))


def _with_final_advantages(decisions: Decisions, steps: Segments, config: TrainerConfig) -> Decisions:
    """Advantages normalised over each optimiser step, where the config asks for it, and weighted by importance."""
    advantages = decisions.advantages
    if config.advantage_normalization == "per_minibatch":
        advantages = group_normalized_advantages(GroupedRewards(advantages, steps))
    if decisions.importance_weights is not None:
        advantages = advantages * decisions.importance_weights
    return decisions if advantages is decisions.advantages else replace(decisions, advantages=advantages)


def _micro_batches(
    decisions: Decisions,
    weights: LossWeights,
    config: TrainerConfig,
    units: Segments,
    unit_decisions: Segments,
    order: Tensor,
    parts: list[list[Tensor]],
) -> Iterator[list[MicroBatch]]:
    """An epoch's optimiser steps, each a list of ``parts``, in which the decisions are gathered and split at once."""
    samples = [[unit_decisions.select(part) for part in step] for step in parts]
    flat = [part for step in samples for part in step]
    steps = Segments.of_lengths([sum(part.total for part in step) for step in samples], unit_decisions.device)
    positions = unit_decisions.positions(order)
    visited = _with_final_advantages(decisions.select(positions), steps, config).split(flat)
    weights = weights.select(positions)
    weight = weights.within(steps).split([part.total for part in flat])
    rows = [units.positions(part) for step in parts for part in step]
    micro_batches = map(MicroBatch, rows, weight, visited)
    for step, has_weight in zip(parts, weights.are_any(steps), strict=True):
        minibatch = list(islice(micro_batches, len(step)))
        yield minibatch if has_weight else []


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
            >>> weights.where(torch.tensor([False, True, True, True])).within(Segments(1, 4))
            tensor([0.0000, 0.3333, 0.3333, 0.3333])
        """
        denominator = self.denominator if keeps_denominator else self.denominator * kept
        return LossWeights(self.numerator * kept, denominator, masked=True)

    def are_any(self, steps: Segments) -> list[bool]:
        """Whether anything has weight in each optimiser step."""
        if not self.masked:
            return [True] * len(steps)
        any_weight: list[bool] = (steps.sum(self.numerator) > 0).tolist()
        return any_weight

    def within(self, steps: Segments) -> Tensor:
        """The weights, [D], where the decisions are cut into optimiser steps."""
        if len(steps) == 1:
            return self.numerator / self.denominator.sum()
        return self.numerator / steps.expand(steps.sum(self.denominator))
