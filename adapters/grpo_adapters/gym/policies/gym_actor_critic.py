"""A policy for gymnasium's environments that has a critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grpo import Evaluation, ValueEstimates
from grpo_adapters.gym.actions.distributions import ActionDistribution
from grpo_adapters.gym.actions.joint_distribution import distribution_for
from grpo_adapters.gym.actions.state_dependent_exploration import StateDependentExploration
from grpo_adapters.gym.networks.perceptrons import MLP, VALUE_GAIN, ActorCriticMLP
from grpo_adapters.gym.playing.trajectories import TrajectoryBatch
from grpo_adapters.gym.policies.gym_policy import GymPolicy
from grpo_adapters.gym.policies.unit_shapes import check_head, require_modules


class GymActorCritic(GymPolicy):
    """A :class:`GymPolicy` with a critic, a network of its own, for PPO.

    Args:
        environment: as for :class:`GymPolicy`.
        actor: as for :class:`GymPolicy`.
        critic: from what the actor sees to values, [n] or [n, 1]. None for a multilayer perceptron. Where there is no
            trunk or memory, and both are None, they are an :class:`ActorCriticMLP`, which is ``actor``, and ``critic``
            is None.
        trunk: as for :class:`GymPolicy`.
        memory: as for :class:`GymPolicy`.
        window: as for :class:`GymPolicy`.
        burn_in: as for :class:`GymPolicy`.
        hidden_sizes: as for :class:`GymPolicy`.
        distribution: as for :class:`GymPolicy`.
        normalize_observations: as for :class:`GymPolicy`.
        seed: of the initial weights and the sampling.

    Raises:
        TypeError, ValueError: as :class:`GymPolicy` does, and if the critic does not give one value an observation.

    Example:
        >>> import gymnasium
        >>> from grpo import PPOConfig, PPOTrainer
        >>> from grpo_adapters.gym import EnvironmentReward, FragmentSampler
        >>> sampler = FragmentSampler(gymnasium.make_vec("CartPole-v1", num_envs=2), num_steps=4)
        >>> policy = GymActorCritic(sampler, actor=nn.Linear(4, 2), critic=nn.Linear(4, 1))
        >>> PPOTrainer(PPOConfig(), policy, EnvironmentReward()).step(sampler.states)["num_decisions"]
        8.0
    """

    def __init__(
        self,
        environment: Any,
        actor: nn.Module | None = None,
        critic: nn.Module | None = None,
        *,
        trunk: nn.Module | None = None,
        memory: nn.Module | None = None,
        window: int | None = None,
        burn_in: int = 0,
        hidden_sizes: Sequence[int] | None = None,
        distribution: Callable[[Any], ActionDistribution] = distribution_for,
        normalize_observations: bool = False,
        seed: int = 0,
    ) -> None:
        require_modules(critic=critic)
        super().__init__(
            environment,
            actor,
            trunk=trunk,
            memory=memory,
            window=window,
            burn_in=burn_in,
            hidden_sizes=hidden_sizes,
            distribution=distribution,
            normalize_observations=normalize_observations,
            seed=seed,
        )
        self.critic: nn.Module | None = critic
        is_paired = actor is None and critic is None and self.trunk is None and self.memory is None
        if is_paired and self._hidden_sizes and not isinstance(self.distribution, StateDependentExploration):
            num_inputs, num_outputs = math.prod(self.encoder.shape), self.distribution.num_outputs
            self.actor = ActorCriticMLP(num_inputs, self._hidden_sizes, num_outputs, generator=self.generator)
            return
        if self.critic is None:
            num_inputs = math.prod(self._unit_shape)
            self.critic = MLP(num_inputs, self._hidden_sizes, 1, output_gain=VALUE_GAIN, generator=self.generator)
        fix = "one value is expected for each, [n] or [n, 1]: end the network with one output"
        check_head(self, "critic", self.critic, {(2,), (2, 1)}, fix, is_own=critic is not None)

    def evaluate_actions(self, batch: TrajectoryBatch) -> Evaluation:
        """Log-probs, entropy and values of the steps, [D] each."""
        sampled = self._sampled(batch)
        if sampled is not None and sampled.values is not None:
            outputs, values = sampled.outputs, sampled.values
        else:
            outputs, values = self._outputs_and_values(self._units_of(batch))
        log_probs, entropy = self.distribution.log_probs_and_entropy(outputs, batch.decisions, batch.masks)
        return Evaluation(log_probs, entropy, values)

    def _decided_by(self, units: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._outputs_and_values(units) if self.trunk is not None else (self.actor(units), None)

    @torch.no_grad()
    def estimate_values(self, batch: TrajectoryBatch) -> ValueEstimates:
        """Values at all steps and after them, [D] each; 0 after a step that terminated its episode."""
        assert batch.terminated is not None
        values, after = self._values_during_and_after(batch)
        next_values = values.roll(-1)
        next_values[batch.episodes.last] = after.masked_fill(batch.terminated, 0.0)
        return ValueEstimates(values, next_values)

    def _values_during_and_after(self, batch: TrajectoryBatch) -> tuple[Tensor, Tensor]:
        """At all steps, and after the last one of each episode."""
        assert batch.next_observations is not None
        after = self.units(batch.next_observations)
        sampled = self._sampled(batch)
        if sampled is not None and sampled.values is not None:
            return sampled.values, self._values(after)
        if self.memory is None:
            return self._values(self.units(batch.stored_observations)), self._values(after)
        remembered = self._remembered(batch)
        after, _ = self.memory(after, remembered.states_after(batch.episodes.last))
        return self._values(remembered.units), self._values(after)

    def _outputs_and_values(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """What the actor and the critic make of n units: [n, num_outputs] and [n]."""
        if self.critic is None:
            assert isinstance(self.actor, ActorCriticMLP)
            outputs, values = self.actor.both(units)
        else:
            outputs, values = self.actor(units), self.critic(units)
        return outputs, values.view(-1)

    def _values(self, units: Tensor) -> Tensor:
        if self.critic is None:
            assert isinstance(self.actor, ActorCriticMLP)
            return self.actor.values(units).view(-1)
        values: Tensor = self.critic(units)
        return values.view(-1)
