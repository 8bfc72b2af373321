"""Small environments of many agents, with PettingZoo's parallel interface, whose every step is known beforehand."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

AGENTS = ("ann", "bob", "cat")
LIVES = {"ann": (0, 2, True), "bob": (0, 5, False), "cat": (1, 3, True)}
"""At which step each joins, how many steps it acts, and whether it then terminates; else it is truncated."""


class Comers:
    """Agents that join and leave; each observes the seed, its number, the episode and the step.

    The reward is the agent's number and a quarter of the action.

    Args:
        tells_masks: forbid action 1 to "bob": "infos" or "observations" say where to tell it.
        wrong: by the step of the first episode, what to change in what ``step`` returns.
    """

    possible_agents: ClassVar = list(AGENTS)

    def __init__(self, tells_masks: str | None = None, wrong: dict[int, Any] | None = None) -> None:
        self.tells_masks, self.wrong = tells_masks, wrong or {}
        self.agents: list[str] = []
        self.seed = self.episode = self.steps = 0

    def observation_space(self, agent: str) -> Any:
        seen = Box(-np.inf, np.inf, (4,))
        return (
            Dict(observation=seen, action_mask=Box(0, 1, (2,), np.int8)) if self.tells_masks == "observations" else seen
        )

    def action_space(self, agent: str) -> Any:
        return Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode += 1
        self.steps = 0
        self.agents = self.alive()
        return self.observations(self.agents), self.infos(self.agents)

    def alive(self) -> list[str]:
        return [agent for agent, (join, lasts, _) in LIVES.items() if join <= self.steps < join + lasts]

    def observations(self, agents: list[str]) -> dict[str, Any]:
        seen = {
            agent: np.array([self.seed, AGENTS.index(agent), self.episode, self.steps], dtype=np.float32)
            for agent in agents
        }
        if self.tells_masks != "observations":
            return seen
        return {agent: {"observation": own, "action_mask": self.mask(agent)} for agent, own in seen.items()}

    def infos(self, agents: list[str]) -> dict[str, Any]:
        return {agent: {"action_mask": self.mask(agent)} if self.tells_masks == "infos" else {} for agent in agents}

    def mask(self, agent: str) -> Any:
        return np.array([1, agent != "bob"], dtype=np.int8)

    def step(self, actions: dict[str, Any]) -> Any:
        assert sorted(actions) == sorted(self.agents), "those who are there act, and nobody else"
        if self.tells_masks:
            assert actions.get("bob", 0) == 0
        acted = list(self.agents)
        self.steps += 1
        self.agents = self.alive()
        ended = {agent: agent not in self.agents for agent in acted}
        told = acted + [agent for agent in self.agents if agent not in acted]
        result = (
            self.observations(told),
            {agent: AGENTS.index(agent) + 0.25 * float(actions[agent]) for agent in acted},
            {agent: ended[agent] and LIVES[agent][2] for agent in acted},
            {agent: ended[agent] and not LIVES[agent][2] for agent in acted},
            self.infos(told),
        )
        if self.episode == 0 and self.steps - 1 in self.wrong:
            self.wrong[self.steps - 1](self, *result)
        return result


class Pursuit:
    """Two hunters and a hare on a ring of five fields; all move at once, and see how far the others are.

    Hunters are rewarded for stepping where the hare was, the hare for stepping where no hunter was; ten steps.
    """

    possible_agents: ClassVar = ["hunter_0", "hunter_1", "hare"]

    def __init__(self) -> None:
        self.generator = np.random.default_rng()
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        return Box(0, 1, (10,))

    def action_space(self, agent: str) -> Any:
        return Discrete(3, start=-1)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.fields = {agent: int(self.generator.integers(5)) for agent in self.agents}
        self.steps = 0
        return self.observations(), {agent: {} for agent in self.agents}

    def observations(self) -> dict[str, Any]:
        return {
            agent: np.concatenate(
                [
                    np.eye(5, dtype=np.float32)[(field - self.fields[agent]) % 5]
                    for other, field in self.fields.items()
                    if other != agent
                ]
            )
            for agent in self.possible_agents
        }

    def step(self, actions: dict[str, Any]) -> Any:
        before = dict(self.fields)
        for agent, action in actions.items():
            self.fields[agent] = (before[agent] + int(action)) % 5
        hunters = [agent for agent in self.possible_agents if agent != "hare"]
        rewards = {agent: float(self.fields[agent] == before["hare"]) for agent in hunters}
        rewards["hare"] = float(self.fields["hare"] not in [before[agent] for agent in hunters])
        self.steps += 1
        over = dict.fromkeys(self.possible_agents, self.steps == 10)
        self.agents = [] if self.steps == 10 else self.agents
        return self.observations(), rewards, dict.fromkeys(over, False), over, {agent: {} for agent in over}
