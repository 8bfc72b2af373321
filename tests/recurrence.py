"""Policies that remember, and a plain loop over the steps that says what they should have computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gym_environments import ScriptedEnv
from gym_simulators import TensorsOf
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from grpo_adapters.gym import (
    GRU,
    LSTM,
    Decided,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    SimulatorSampler,
    StackedUnits,
    Trajectory,
    WindowTransformer,
)
from grpo_adapters.gym.observations.encoder import ObservationEncoder, spaces_of

NUM_ENVS = 3
SEED = 5


class DecayingSum(nn.Module):
    """A memory of one's own: a state in a dictionary, a learnt beginning, and single steps only."""

    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.beginning = nn.Parameter(torch.linspace(-1, 1, num_units))
        self.decay = nn.Parameter(torch.tensor(0.7))

    def initial_state(self, num_environments: int) -> dict[str, Tensor]:
        return {"sum": self.beginning.expand(num_environments, -1)}

    def forward(self, units: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        total = torch.tanh(self.decay * state["sum"] + units)
        return total, {"sum": total}


MEMORIES: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: LSTM(4, 6),
    "layers": lambda: LSTM(4, 6, num_layers=2),
    "gru": lambda: GRU(4, 6),
    "stack": lambda: StackedUnits(3),
    "transformer": lambda: WindowTransformer(4, 8, length=3, num_heads=2),
    "own": lambda: DecayingSum(4),
}


def fragments(num_steps: int, mode: AutoresetMode = AutoresetMode.SAME_STEP) -> FragmentSampler:
    """Three environments, whose episodes have one to five steps."""
    return FragmentSampler(SyncVectorEnv([ScriptedEnv] * NUM_ENVS, autoreset_mode=mode), num_steps, seed=SEED)


def simulated(num_steps: int) -> SimulatorSampler:
    """The same three environments, as one simulator over tensors."""
    envs = SyncVectorEnv([ScriptedEnv] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    return SimulatorSampler(TensorsOf(envs), num_steps, seed=SEED)


def recurrent(environment: Any, memory: str = "lstm", *, precise: bool = True, **options: Any) -> GymActorCritic:
    """An actor and a critic that remember, with weights that tell observations apart."""
    torch.manual_seed(0)
    [num_inputs] = ObservationEncoder(spaces_of(environment)[0]).shape
    trunk = nn.Sequential(nn.Linear(num_inputs, 4), nn.Tanh())
    policy = GymActorCritic(environment, trunk=trunk, memory=MEMORIES[memory](), **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head in (policy.actor, policy.critic):
            assert head is not None
            for parameter in head.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return policy.double() if precise else policy


def begins(observation: Any) -> bool:
    """Whether a scripted episode begins with it."""
    return float(observation[2]) == 0.0


def step_by_step(
    policy: GymActorCritic, observations: Any, decisions: Tensor, state: Any, *, begins: Any = begins
) -> tuple[Tensor, Tensor, list[Any]]:
    """Log-probs and values of steps of one environment, and the states before and after them.

    Args:
        policy: decided.
        observations: of the steps.
        decisions: of the steps.
        state: before the first step.
        begins: whether an episode begins with an observation; as in the scripted one, if nothing is said.
    """
    log_probs, values, states = [], [], [state]
    for observation, decision in zip(observations.to(policy.dtype), decisions, strict=True):
        units, state = one_step(policy, observation, None if begins(observation) else state)
        log_probs.append(policy.actor(units).log_softmax(-1)[0, decision])
        values.append(value_of(policy, units))
        states.append(state)
    return torch.stack(log_probs), torch.stack(values), states


def one_step(policy: GymActorCritic, observation: Tensor, state: Any) -> tuple[Tensor, Any]:
    assert policy.trunk is not None
    assert policy.memory is not None
    state = policy.initial_memory(1) if state is None else state
    units, state = policy.memory(policy.trunk(observation[None]), state)
    return units, state


def value_of(policy: GymActorCritic, units: Tensor) -> Tensor:
    assert policy.critic is not None
    value: Tensor = policy.critic(units)[0, 0]
    return value


def played(policy: GymActorCritic, sampler: FragmentSampler, num_rollouts: int) -> list[list[Trajectory]]:
    """The fragments of each rollout."""
    return [[group[0] for group in sampler.sample(policy, sampler.states, 1)] for _ in range(num_rollouts)]


class Remembers(GymPolicy):
    """Returns a memory, and does not tell how episodes begin."""

    def initial_memory(self, num_environments: int) -> Any:
        return None

    def decide(self, observations: Any, noise: Any, masks: Any = None, memory: Any = None) -> Decided:
        return Decided(super().decide(observations, noise, masks).decisions, torch.zeros(len(observations), 1))


class Forgets(GymPolicy):
    """Begins with a memory, and returns none."""

    def initial_memory(self, num_environments: int) -> Any:
        return torch.zeros(num_environments, 1)

    def keeps_memory_at(self, step: int) -> bool:
        return step == 0

    def decide(self, observations: Any, noise: Any, masks: Any = None, memory: Any = None) -> Decided:
        return super().decide(observations, noise, masks)
