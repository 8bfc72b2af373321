"""What goes into an objective or comes out of it, flat over D decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from grpo.data.segments import Segments


@dataclass(frozen=True, slots=True)
class Decisions:
    """What an objective knows of each decision besides the policy's evaluation of it, flat over D.

    Attributes:
        advantages: how much better than expected the decision turned out, [D].
        old_log_probs: log-probs under the policy that sampled, [D], nats; None where that is the very policy being
            evaluated, so that the ratio is 1.
        reference_log_probs: log-probs under the reference policy, [D], nats; None without one.
        samples: the decisions of each sample; of use to objectives that require whole samples only, since a
            minibatch of rows may hold a part of a sample.
        returns: what the critic should have expected, A + V, [D]; None without one.
        old_values: what the critic expected before the update, [D]; None without one.
        importance_weights: what the advantages are multiplied by to correct for a sampler whose log-probs are not the
            policy's, [D]; None for nothing.
        step: steps that the trainer made before this one, for whatever follows a schedule.

    Example:
        >>> import torch
        >>> from grpo import ScoreFunctionSurrogate
        >>> decisions = Decisions(torch.tensor([1.0, 1.0, -2.0]), None, None, Segments.of_lengths([2, 1]))
        >>> ScoreFunctionSurrogate()(torch.tensor([-1.0, -2.0, -3.0]), decisions).loss
        tensor([ 1.,  2., -6.])
        >>> decisions.select(torch.tensor([2, 0])).advantages
        tensor([-2.,  1.])
    """

    advantages: Tensor
    old_log_probs: Tensor | None
    reference_log_probs: Tensor | None
    samples: Segments
    returns: Tensor | None = None
    old_values: Tensor | None = None
    importance_weights: Tensor | None = None
    step: int = 0

    def select(self, positions: Tensor) -> Decisions:
        """Those at ``positions``, int64 of shape [K], each taken for a sample of its own."""
        return self._with(
            [None if column is None else column[positions] for column in self._columns],
            Segments(len(positions), 1, positions.device),
        )

    def split(self, parts: Sequence[Segments]) -> list[Decisions]:
        """Consecutive parts, each with the samples that are given for it."""
        sizes = [part.total for part in parts]
        nothing = [None] * len(parts)
        columns = [nothing if column is None else column.split(sizes) for column in self._columns]
        return [self._with(list(values), part) for part, *values in zip(parts, *columns, strict=True)]

    @property
    def _columns(self) -> tuple[Tensor | None, ...]:
        return (
            self.advantages,
            self.old_log_probs,
            self.reference_log_probs,
            self.returns,
            self.old_values,
            self.importance_weights,
        )

    def _with(self, columns: Sequence[Tensor | None], samples: Segments) -> Decisions:
        advantages, old_log_probs, reference_log_probs, returns, old_values, weights = columns
        assert advantages is not None
        return Decisions(
            advantages, old_log_probs, reference_log_probs, samples, returns, old_values, weights, self.step
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """A loss and what to report of it, per decision.

    Attributes:
        loss: [D], differentiable, elementwise: the trainer alone weights and sums it.
        metrics: [D] each, without gradient; the trainer averages them with the weights of the loss.

    Example:
        >>> import torch
        >>> from grpo import Evaluation, GRPOObjective
        >>> def weighted_surprise(log_probs, decisions):
        ...     return Terms(-decisions.advantages * log_probs, {"surprise": -log_probs.detach()})
        >>> decisions = Decisions(torch.tensor([2.0]), None, None, Segments(1, 1))
        >>> GRPOObjective(surrogate=weighted_surprise)(Evaluation(torch.tensor([-3.0])), decisions)
        Terms(loss=tensor([6.]), metrics={'surprise': tensor([3.])})
    """

    loss: Tensor
    metrics: dict[str, Tensor]
