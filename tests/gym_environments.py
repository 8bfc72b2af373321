"""Small environments whose every step is known beforehand, and networks whose outputs are exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

Observation = NDArray[np.float32]
Result = tuple[Observation, float, bool, bool, dict[str, Any]]

EPISODES: tuple[tuple[tuple[float, ...], bool], ...] = (
    ((1.0, 2.0, -1.0), True),
    ((0.5,), False),
    ((0.0, 0.0, 4.0, 1.0, 2.0), False),
    ((-3.0,), True),
    ((1.0, 0.25), True),
    ((2.0, 2.0, 2.0, 8.0), False),
)


class ScriptedEnv(gymnasium.Env[Observation, np.int64]):
    """Plays the episodes in turn, beginning with the one that the seed names; observes seed, episode and step.

    The reward is that of the script and a quarter of the action. The last entry of an episode tells whether it
    terminates; else it is truncated.

    Args:
        fails_at: the (seed, episode, step) at which to raise; step -1 is the reset.
        bad_observation: the (seed, episode, step) to observe NaN at.
        bad_reward: the (seed, episode, step) to be rewarded infinitely for.
    """

    def __init__(
        self,
        fails_at: tuple[int, int, int] | None = None,
        bad_observation: tuple[int, int, int] | None = None,
        bad_reward: tuple[int, int, int] | None = None,
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,))
        self.action_space = spaces.Discrete(2)
        self.fails_at, self.bad_observation, self.bad_reward = fails_at, bad_observation, bad_reward
        self.seed = self.steps = 0
        self.episode = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode += 1
        self.steps = 0
        if self.fails_at == (self.seed, self.episode, -1):
            raise RuntimeError("the door is stuck")
        return self._observation(), {}

    def step(self, action: Any) -> Result:
        assert action in (0, 1), action
        place = (self.seed, self.episode, self.steps)
        if self.fails_at == place:
            raise RuntimeError("the wheel came off")
        rewards, terminates = EPISODES[(self.seed + self.episode) % len(EPISODES)]
        reward = rewards[self.steps] + 0.25 * float(action)
        if place == self.bad_reward:
            reward = float("inf")
        self.steps += 1
        is_over = self.steps == len(rewards)
        return self._observation(), reward, is_over and terminates, is_over and not terminates, {}

    def _observation(self) -> Observation:
        place = (self.seed, self.episode, self.steps)
        values = (np.nan, *place[1:]) if place == self.bad_observation else place
        return np.array(values, dtype=np.float32)


@dataclass(frozen=True)
class Step:
    """A step of a scripted environment, as it must be seen by whoever learns from it."""

    observation: tuple[int, int, int]
    action: int
    reward: float
    next_observation: tuple[int, int, int]
    terminated: bool
    done: bool


def scripted_steps(seed: int) -> Iterator[Step]:
    """All steps of a scripted environment under :class:`ParityActor`, one after the other, without end."""
    for episode in count():
        rewards, terminates = EPISODES[(seed + episode) % len(EPISODES)]
        for step, reward in enumerate(rewards):
            action = (seed + episode + step) % 2
            done = step == len(rewards) - 1
            yield Step(
                (seed, episode, step),
                action,
                reward + 0.25 * action,
                (seed, episode, step + 1),
                done and terminates,
                done,
            )


def scripted_steps_between(seed: int, first: int, last: int) -> list[Step]:
    return list(islice(scripted_steps(seed), first, last))


class ParityActor(nn.Module):
    """Chooses, beyond all doubt, the parity of the sum of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1000.0))

    def forward(self, features: Tensor) -> Tensor:
        parity = features.sum(-1).remainder(2)
        return self.scale * torch.stack((1 - parity, parity), -1)


CRITIC_WEIGHTS = (0.5, 0.25, 0.125)


class ExactCritic(nn.Module):
    """A linear function of the features without any rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(CRITIC_WEIGHTS))

    def forward(self, features: Tensor) -> Tensor:
        return (features * self.weights).sum(-1)


def exact_value(observation: tuple[int, int, int]) -> float:
    return sum(weight * feature for weight, feature in zip(CRITIC_WEIGHTS, observation, strict=True))


def advantages_by_hand(steps: list[Step], discount: float, gae_lambda: float) -> list[float]:
    """Generalised advantages of consecutive steps, from their definition."""
    advantages: list[float] = []
    following = 0.0
    for step in reversed(steps):
        after = 0.0 if step.terminated else exact_value(step.next_observation)
        error = step.reward + discount * after - exact_value(step.observation)
        following = error + (0.0 if step.done else discount * gae_lambda * following)
        advantages.append(following)
    return advantages[::-1]


class MatchingEnv(gymnasium.Env[np.int64, np.int64]):
    """Shows one of a few cues and rewards the action of the same number; three steps. What is shown is up to the seed.

    Args:
        num_cues: cues, and actions.
        masked: forbid the action after the right one, by ``info["action_mask"]``.
        start: number of the first action.
    """

    def __init__(self, num_cues: int = 3, *, masked: bool = False, start: int = 0) -> None:
        self.observation_space = spaces.Discrete(num_cues)
        self.action_space = spaces.Discrete(num_cues, start=start)
        self.masked = masked
        self.cue = self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show()

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space, action
        choice = int(action) - int(self.action_space.start)  # type: ignore[attr-defined]
        if self.masked:
            assert self.mask()[choice], f"{action} was forbidden"
        reward = float(choice == self.cue)
        self.steps += 1
        observation, info = self._show()
        return observation, reward, self.steps == 3, False, info

    def mask(self) -> NDArray[np.int8]:
        size = int(self.observation_space.n)  # type: ignore[attr-defined]
        mask = np.ones(size, dtype=np.int8)
        mask[(self.cue + 1) % size] = 0
        return mask

    def _show(self) -> tuple[np.int64, dict[str, Any]]:
        self.cue = int(self.np_random.integers(self.observation_space.n))  # type: ignore[attr-defined]
        return np.int64(self.cue), {"action_mask": self.mask()} if self.masked else {}


class SpacesEnv(gymnasium.Env[Any, Any]):
    """Any spaces: observes and asks for what they hold, for four steps; rewards nothing."""

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), 0.0, False, self.steps == 4, {}


class FramesEnv(gymnasium.Env[Any, Any]):
    """Frames of random pixels in episodes of ``length`` steps."""

    def __init__(self, shape: tuple[int, ...] = (4, 84, 84), length: int = 7) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(3)
        self.length, self.time = length, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._frame(), float(action), self.time == self.length, False, {}

    def _frame(self) -> Any:
        return self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)
