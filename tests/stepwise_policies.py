"""A policy over two matrices that inherits from nothing and decides step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grpo import Evaluation, ValueEstimates
from grpo_adapters.gym import Decided, Trajectory, TrajectoryBatch, distribution_for


class MatrixPolicy:
    """Logits, or means, and values are linear in the observation.

    Args:
        environment: tells the spaces.
        seed: of what is drawn.
    """

    def __init__(self, environment: Any, *, seed: int = 0) -> None:
        self.observation_space = environment.single_observation_space
        self.action_space = environment.single_action_space
        self.distribution = distribution_for(self.action_space)
        self.generator = torch.Generator().manual_seed(seed)
        size = self.observation_space.shape[0]
        self.actor = torch.linspace(-0.5, 0.5, size * self.distribution.num_outputs).view(size, -1).requires_grad_()
        self.critic = torch.linspace(0.5, -0.5, size).requires_grad_()

    @property
    def device(self) -> torch.device:
        return self.actor.device

    @property
    def dtype(self) -> torch.dtype:
        return self.actor.dtype

    def decide(
        self, observations: Tensor, noise: Tensor | None, masks: Tensor | None = None, memory: Any = None
    ) -> Decided:
        outputs = observations @ self.actor
        if noise is None:
            return Decided(self.distribution.mode(outputs, masks))
        return Decided(self.distribution.sample(outputs, noise, masks))

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        raise AssertionError("a sampler plays")

    def encode_actions(self, states: Any, actions: Sequence[Trajectory]) -> TrajectoryBatch:
        return TrajectoryBatch.of(actions, self.device, self.dtype)

    def evaluate_actions(self, batch: Any) -> Evaluation:
        outputs, values = batch.observations @ self.actor, batch.observations @ self.critic
        log_probs, entropy = self.distribution.log_probs_and_entropy(outputs, batch.decisions, batch.masks)
        return Evaluation(log_probs, entropy, values)

    def estimate_values(self, batch: Any) -> ValueEstimates:
        values = (batch.observations @ self.critic).detach()
        after = (batch.next_observations @ self.critic).detach()
        next_values = values.roll(-1)
        next_values[batch.episodes.last] = after.masked_fill(batch.terminated, 0.0)
        return ValueEstimates(values, next_values)

    def get_log_probabilities(self, states: Any, actions: Sequence[Trajectory]) -> Tensor:
        batch = self.encode_actions(states, actions)
        return batch.samples.sum(self.evaluate_actions(batch).log_probs)

    def get_parameters(self) -> dict[str, Tensor]:
        return {"actor": self.actor, "critic": self.critic}

    def train(self) -> None: ...

    def eval(self) -> None: ...

    def to(self, device: Any) -> None:
        for parameter in (self.actor, self.critic):
            parameter.data = parameter.data.to(device)
