"""Environments that give the same arrays at each step, and write over them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from grpo_adapters.gym import EpisodeSampler, FragmentSampler, GymActorCritic, ParallelAgents, Trajectory

SPACE = spaces.Box(0, 100, (2, 1))


class Counts(gymnasium.Env[Any, Any]):
    """Shows the number of the step, in episodes of three steps; allows the actions 0 and 1 by turns."""

    observation_space, action_space = SPACE, spaces.Discrete(2)

    def __init__(self) -> None:
        self.seen, self.mask = np.zeros(SPACE.shape, np.float32), np.zeros(2, bool)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.show(0), {"action_mask": self.mask}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time = int(self.seen[0, 0]) + 1
        return self.show(time), float(action), False, time == 3, {"action_mask": self.mask}

    def show(self, time: int) -> Any:
        self.seen[:] = time
        self.mask[:] = [time % 2 == 0, time % 2 == 1]
        return self.seen


class Both:
    """Two agents that are shown the same array."""

    possible_agents = ("left", "right")

    def __init__(self) -> None:
        self.environment = Counts()

    def observation_space(self, agent: str) -> Any:
        return SPACE

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.agents = list(self.possible_agents)
        seen, info = self.environment.reset(seed=seed)
        return dict.fromkeys(self.agents, seen), dict.fromkeys(self.agents, info)

    def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
        told = [dict.fromkeys(self.agents, own) for own in self.environment.step(0)]
        told[1] = {agent: float(action) for agent, action in actions.items()}
        if told[3]["left"]:
            self.agents = []
        return tuple(told)


def check(trajectory: Trajectory) -> None:
    """All that came is there, and what was allowed was done."""
    steps = trajectory.observations[:, 0, 0]
    assert trajectory.observations[:, 1, 0].tolist() == steps.tolist()
    assert trajectory.masks is not None
    assert trajectory.masks.tolist() == [[step % 2 == 0, step % 2 == 1] for step in steps.tolist()]
    assert trajectory.decisions.tolist() == (steps % 2).tolist()
    assert trajectory.rewards.tolist() == (steps % 2).tolist()
    begin = 0
    for length, after in zip(trajectory.episode_lengths, trajectory.next_observations[:, 0, 0].tolist(), strict=True):
        own = steps[begin : begin + length].tolist()
        assert [*own, after] == [own[0] + number for number in range(length + 1)]
        begin += length


@pytest.mark.parametrize("num_envs", [1, 3])
def test_episodes(num_envs: int) -> None:
    sampler = EpisodeSampler(Counts, num_envs=num_envs)
    for group in sampler.sample(GymActorCritic(sampler), [0, 1], 2):
        for trajectory in group:
            assert trajectory.episode_lengths == (3,)
            check(trajectory)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_fragments(mode: AutoresetMode) -> None:
    sampler = FragmentSampler(SyncVectorEnv([Counts] * 2, autoreset_mode=mode, copy=False), num_steps=5)
    policy = GymActorCritic(sampler)
    for _ in range(3):
        for [trajectory] in sampler.sample(policy, sampler.states, 1):
            check(trajectory)


def test_agents() -> None:
    agents = ParallelAgents(Both, num_steps=5, num_envs=2)
    sampler = agents.samplers["agents"]
    policy = GymActorCritic(sampler)
    for _ in range(3):
        [[trajectory]] = sampler.sample(policy, sampler.states, 1)
        assert len(trajectory) == 2 * 2 * 5
        check(trajectory)
