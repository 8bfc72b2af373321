"""Recurrent PPO beside a truncated backpropagation that is written out step by step."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from recurrence import NUM_ENVS, begins, fragments, recurrent
from torch import Tensor

from grpo import PPOConfig, PPOTrainer
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic, Trajectory

DISCOUNT, GAE_LAMBDA, CLIP, VALUE_COEFFICIENT, RATE, NUM_STEPS = 0.9, 0.8, 0.1, 0.5, 0.05, 8
State = tuple[Tensor, Tensor]


def cell(policy: Any, observation: Tensor, state: State) -> State:
    """A step of an LSTM, from its formula."""
    weights = policy.memory.layers
    hidden, memory = (torch.zeros(6, dtype=torch.float64),) * 2 if begins(observation) else state
    units = policy.trunk(observation)
    gates = weights.weight_ih_l0 @ units + weights.bias_ih_l0 + weights.weight_hh_l0 @ hidden + weights.bias_hh_l0
    enters, stays, candidate, leaves = gates.chunk(4)
    memory = stays.sigmoid() * memory + enters.sigmoid() * candidate.tanh()
    return leaves.sigmoid() * memory.tanh(), memory


class Slot:
    """What was sampled in one environment: states, log-probs, values, advantages and returns, from loops."""

    @torch.no_grad()
    def __init__(self, policy: Any, fragment: Trajectory, state: State) -> None:
        observations: Any = fragment.observations
        self.observations = observations.double()
        self.decisions = fragment.decisions
        self.states = [state]
        for observation in self.observations:
            self.states.append(cell(policy, observation, self.states[-1]))
        units = torch.stack([hidden for hidden, _ in self.states[1:]])
        self.log_probs = policy.actor(units).log_softmax(-1)[torch.arange(NUM_STEPS), self.decisions]
        self.values = policy.critic(units)[:, 0]
        self.advantages = torch.zeros(NUM_STEPS, dtype=torch.float64)
        ends = torch.tensor(fragment.episode_lengths).cumsum(0).tolist()
        for begin, end, last, is_terminated in zip(
            [0, *ends[:-1]], ends, fragment.next_observations, fragment.terminated, strict=True
        ):
            after = policy.critic(cell(policy, last.double(), self.states[end])[0][None])[0, 0] * ~is_terminated
            following = 0.0
            for step in reversed(range(begin, end)):
                error = fragment.rewards[step] + DISCOUNT * after - self.values[step]
                following = error + DISCOUNT * GAE_LAMBDA * following
                self.advantages[step], after = following, self.values[step]
        self.returns = self.advantages + self.values

    def loss(self, policy: Any, window: int, burn_in: int) -> Tensor:
        """The sum of the loss over the steps, where gradients end at the beginning of a window."""
        losses = []
        for start, end in pairwise([*range(0, NUM_STEPS, window), NUM_STEPS]):
            warm = max(start - burn_in, 0)
            state = self.states[warm]
            with torch.no_grad():
                for step in range(warm, start):
                    state = cell(policy, self.observations[step], state)
            for step in range(start, end):
                state = cell(policy, self.observations[step], state)
                ratio = (
                    policy.actor(state[0][None]).log_softmax(-1)[0, self.decisions[step]] - self.log_probs[step]
                ).exp()
                advantage = self.advantages[step]
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
                error = policy.critic(state[0][None])[0, 0] - self.returns[step]
                losses.append(VALUE_COEFFICIENT * error.square() - surrogate)
        return torch.stack(losses).sum()


def by_hand(policy: Any, slots: list[Slot], window: int, burn_in: int) -> None:
    """Two epochs of plain gradient descent."""
    for _ in range(2):
        policy.zero_grad()
        total: Any = sum(slot.loss(policy, window, burn_in) for slot in slots)
        (total / (NUM_ENVS * NUM_STEPS)).backward()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter -= RATE * parameter.grad


class Recorded:
    """A sampler that notes the fragments of the last rollout."""

    def __init__(self, sampler: FragmentSampler) -> None:
        self.sampler = sampler
        self.fragments: list[Trajectory] = []

    def sample(self, *arguments: Any, **options: Any) -> list[list[Trajectory]]:
        groups = self.sampler.sample(*arguments, **options)
        self.fragments = [group[0] for group in groups]
        return groups


@pytest.mark.parametrize(("window", "burn_in"), [(None, 0), (3, 0), (4, 2), (1, 0)])
def test_two_epochs_of_ppo(window: int | None, burn_in: int) -> None:
    sampler = fragments(NUM_STEPS)
    policy: GymActorCritic = recurrent(sampler, window=window, burn_in=burn_in)
    config = PPOConfig(
        batch_size=None,
        num_epochs_per_update=2,
        max_grad_norm=None,
        advantage_normalization=None,
        discount=DISCOUNT,
        gae_lambda=GAE_LAMBDA,
        clip_low=CLIP,
        clip_high=CLIP,
        value_coefficient=VALUE_COEFFICIENT,
        learning_rate=RATE,
    )
    optimizer = torch.optim.SGD(policy.parameters(), lr=RATE)
    recorded = Recorded(sampler)
    trainer = PPOTrainer(config, policy, EnvironmentReward(), optimizer=optimizer, sampler=recorded)
    states: list[State] = [(torch.zeros(6, dtype=torch.float64),) * 2] * NUM_ENVS
    for _ in range(3):
        expected = copy.deepcopy(policy)
        trainer.step(sampler.states)
        slots = [Slot(expected, *known) for known in zip(recorded.fragments, states, strict=True)]
        states = [slot.states[-1] for slot in slots]
        by_hand(expected, slots, window or NUM_STEPS, burn_in)
        for name, parameter in policy.get_parameters().items():
            torch.testing.assert_close(parameter, expected.get_parameters()[name], rtol=1e-6, atol=1e-10)
