"""Credit of single steps in groups of steps that were in equal states, as GiGPO has it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo import AdvantageEstimate, Experience, GroupRelative, Needs, Segments, rewards_to_go


@dataclass(frozen=True, kw_only=True)
class AnchorStates:
    """Episodes compared with those of their group, and steps with those of their group that observed the same.

    Observations are the same where they are equal once rounded to multiples of ``width``. Returns from the steps are
    compared in standard deviations, as the episodes' are, and added to these.

    References:
        Feng et al. 2025 (GiGPO), arXiv:2505.10978.

    Example:
        Two episodes of two steps, which begin in equal states and go to others.

        >>> from grpo_adapters.gym import Trajectory, TrajectoryBatch
        >>> states, rewards = torch.tensor([[0.0], [1.0], [0.05], [3.0]]), torch.tensor([0.0, 1.0, 0.0, 3.0])
        >>> ends, terminated = torch.zeros(1, 1), torch.tensor([True])
        >>> trajectories = [
        ...     Trajectory(states[own], torch.zeros(2, dtype=int), rewards[own], (2,), ends, terminated)
        ...     for own in (slice(2), slice(2, 4))
        ... ]
        >>> batch = TrajectoryBatch.of(trajectories, torch.device("cpu"), torch.float32)
        >>> experience = Experience([0], trajectories, batch, Segments(1, 2), rewards)
        >>> estimate = AnchorStates(discount=1.0, width=0.2).estimate(experience)
        >>> estimate.advantages
        tensor([-1.4142, -0.7071,  1.4142,  0.7071])
        >>> estimate.metrics
        {'shared_states': 0.5}
    """

    discount: float
    width: float

    @property
    def needs(self) -> Needs:
        """Groups to compare within."""
        return GroupRelative().needs

    def __call__(self, experience: Experience) -> Tensor:
        """Advantages of the decisions, [D]."""
        return self.estimate(experience).advantages

    def estimate(self, experience: Experience) -> AdvantageEstimate:
        """Advantages of the decisions, [D], and the share of those that another episode has an equal state to."""
        returns = rewards_to_go(experience.decision_rewards, experience.episodes, discount=self.discount)
        order, cells = self.cells(experience)
        centered = cells.center(returns[order])
        others = (cells.lengths - 1).clamp(min=1)
        deviations = (cells.sum(centered.square()) / others).sqrt()
        by_step = torch.empty_like(returns)
        by_step[order] = centered / cells.expand(deviations.masked_fill(deviations == 0, 1.0))
        episode = experience.samples.ids[order].to(returns)
        shared = cells.expand(cells.maximum(episode) + cells.maximum(-episode)) > 0
        by_episode = experience.samples.expand(GroupRelative()(experience))
        return AdvantageEstimate(by_episode + by_step, metrics={"shared_states": shared.double().mean().item()})

    def cells(self, experience: Experience) -> tuple[Tensor, Segments]:
        """An order of the decisions in which those of a group in equal states are neighbours, and their runs."""
        rounded = (experience.batch.observations / self.width).round()  # type: ignore[attr-defined]
        group = experience.samples.expand(experience.groups.ids)
        keys = torch.column_stack((group.to(rounded), rounded))
        _, cell = keys.unique(dim=0, return_inverse=True)
        order = cell.argsort(stable=True)
        return order, Segments.of_lengths(cell[order].unique_consecutive(return_counts=True)[1])
