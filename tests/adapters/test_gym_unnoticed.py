"""What environments write over, share with others, or tell in part, is learnt from as it was, or refused."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import FramesEnv
from gym_simulators import Counters
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from parallel_environments import Comers
from torch import Tensor, nn

from grpo_adapters.gym import (
    EnvironmentFailedError,
    FragmentSampler,
    GymPolicy,
    ParallelAgents,
    Player,
    SimulatorSampler,
)


class Vector(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Four counters in one buffer that is written over, as are the actions; episodes of 3, 4, 5 and 6 steps are cut.

    Args:
        mode: how episodes begin anew.
        wrong: what ``step`` returns otherwise, by its place.
        infos: what it tells in place of the right infos.
    """

    def __init__(
        self,
        mode: AutoresetMode = AutoresetMode.SAME_STEP,
        wrong: dict[int, Any] | None = None,
        infos: dict[str, Any] | None = None,
    ) -> None:
        self.num_envs, self.wrong, self.infos = 4, wrong or {}, infos
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = Box(-np.inf, np.inf, (1,)), Discrete(3)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, 4)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, 4)
        self.counts = np.zeros((4, 1), dtype=np.float32)
        self.played: list[list[int]] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.counts[:] = 0  # whatever a mask asks for
        return self.counts, {}

    def step(self, actions: Any) -> Any:
        self.played.append(actions.tolist())
        actions[:] = 0
        self.counts += 1
        truncated = self.counts[:, 0] == [3, 4, 5, 6]
        final = self.counts.copy()
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP:
            self.counts[truncated] = 0
        right = [self.counts, np.ones(4), np.zeros(4, dtype=bool), truncated, {"final_obs": final}]
        if self.infos is not None:
            right[4] = self.infos
        return tuple(self.wrong.get(place, each) for place, each in enumerate(right))


def test_actions_may_be_written_over() -> None:
    class Writing(Counters):
        def __init__(self) -> None:
            super().__init__()
            self.played: list[list[int]] = []

        def step(self, actions: Tensor) -> Any:
            self.played.append(actions.tolist())
            actions.zero_()
            return super().step(actions)

    environments: list[Any] = [Writing(), Vector()]
    samplers: list[Any] = [SimulatorSampler(environments[0], 8), FragmentSampler(environments[1], 8)]
    for environment, sampler in zip(environments, samplers, strict=True):
        groups = sampler.sample(GymPolicy(sampler), sampler.states, 1)
        decided = torch.stack([fragment.decisions for [fragment] in groups], 1)
        assert decided.tolist() == environment.played
        assert decided.any()


class Previous(nn.Module):
    """Remembers the last observation, as it was given."""

    def initial_state(self, num_rows: int) -> Tensor:
        return torch.zeros(num_rows, 1)

    def forward(self, units: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([units, state], 1), units


def test_a_memory_may_remember_what_is_written_over() -> None:
    sampler = FragmentSampler(Vector(), 2)
    policy = GymPolicy(sampler, memory=Previous(), window=2)
    for step in (0, 2):  # the episode of the last environment goes on
        fragment = sampler.sample(policy, sampler.states, 1)[3][0]
        assert fragment.observations.flatten().tolist() == [step, step + 1]
        assert fragment.memory is not None
        assert fragment.memory.states.flatten().tolist() == [max(step - 1, 0)]
    player, seen = Player(policy), np.ones((1, 1), dtype=np.float32)
    player(seen)
    seen[:] = 7
    assert player._memory.tolist() == [[1]]


@pytest.mark.parametrize(
    ("envs", "message"),
    [
        (Vector(infos={}), r"Vector ended .*environment 0 in AutoresetMode.SAME_STEP, but.*no 'final_obs'"),
        (
            Vector(infos={"final_obs": np.zeros((4, 1)), "_final_obs": np.zeros(4, dtype=bool)}),
            r"ended the episode of environment 0 .*no 'final_obs' of it",
        ),
        (Vector(wrong={1: np.ones((4, 1))}), r"returned rewards of shape \[4, 1\].*expected numbers \[4\]"),
        (Vector(wrong={1: 1.0}), r"returned rewards of shape \[\].*expected numbers \[4\]"),
        (Vector(wrong={1: np.ones(4) * 1j}), r"returned rewards .*complex128.*expected numbers \[4\]"),
        (Vector(wrong={2: np.zeros((4, 1), dtype=bool)}), r"returned terminated of shape \[4, 1\].*expected bool"),
        (Vector(wrong={3: np.array([None] * 4)}), r"returned truncated .*dtype object, expected bool \[4\]"),
        (
            Vector(AutoresetMode.DISABLED),
            r"Vector.reset was asked by options\['reset_mask'\] .*environments \[0\], and changed the observations of",
        ),
    ],
)
def test_a_vector_that_tells_something_else_is_refused(envs: Any, message: str) -> None:
    sampler = FragmentSampler(envs, 8)
    with pytest.raises(ValueError, match=message):
        sampler.sample(GymPolicy(sampler), sampler.states, 1)


def test_the_environment_that_observes_something_else_is_named() -> None:
    def turned() -> Any:
        env = FramesEnv((3, 12, 12))
        env._frame = lambda: np.zeros((12, 12, 3), dtype=np.uint8)  # type: ignore[method-assign]
        return env

    envs = SyncVectorEnv([lambda: FramesEnv((3, 12, 12)), turned, lambda: FramesEnv((3, 12, 12))])
    sampler = FragmentSampler(envs, 4)
    with pytest.raises(EnvironmentFailedError, match=r"environment 1 \(seed 1\) gave a wrong observation.*moveaxis"):
        sampler.sample(GymPolicy(sampler), sampler.states, 1)


def test_a_simulator_whose_last_observations_are_the_first_is_refused() -> None:
    class Sharing(Counters):
        def step(self, actions: Tensor) -> Any:
            return *super().step(actions)[:-1], {"final_obs": self.counts}

    sampler = SimulatorSampler(Sharing(), 5)
    with pytest.raises(ValueError, match=r"Sharing.step returned the same memory.*at step 4.*return a clone"):
        sampler.sample(GymPolicy(sampler), sampler.states, 1)


def test_a_simulator_that_another_sampler_has_reset_is_refused_once() -> None:
    simulator = Counters()
    one, other = SimulatorSampler(simulator, 3), SimulatorSampler(simulator, 3)
    policy = GymPolicy(one)
    for sampler in (one, other):
        sampler.sample(policy, sampler.states, 1)
    with pytest.raises(RuntimeError, match=r"in simulator Counters are not those of this sampler"):
        one.sample(policy, one.states, 1)
    [[fragment], *_] = one.sample(policy, one.states, 1)
    assert fragment.observations[:, 0].tolist() == [0, 1, 2]


def test_copies_of_an_environment_of_agents_are_alike_and_stay_so() -> None:
    class Growing(Comers):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

        def action_space(self, agent: str) -> Any:
            return Discrete(self.size)

    sizes = iter((2, 3))
    with pytest.raises(ValueError, match=r"agent ann of environment 1 has the spaces .*Discrete\(3\).*expected .*2"):
        ParallelAgents(lambda: Growing(next(sizes)), 4, num_envs=2)
    alone = Comers()
    with pytest.raises(ValueError, match=r"returned the same environment more than once for num_envs=3"):
        ParallelAgents(lambda: alone, 4, num_envs=3)

    agents = ParallelAgents(lambda: Growing(2), 12, num_envs=2)
    group = agents.samplers["agents"]
    policy = GymPolicy(group)
    agents.environments[1].size = 3
    with pytest.raises(ValueError, match=r"agent ann of environment 1 has the spaces .*Discrete\(3\).*expected .*2"):
        group.sample(policy, group.states, 1)
