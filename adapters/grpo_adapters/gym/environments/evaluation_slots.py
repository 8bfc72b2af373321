"""Environments that whole episodes are played in, a slot for each, seen in one way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray
from typing_extensions import Protocol

from grpo_adapters.gym.actions.action_batches import one_by_one
from grpo_adapters.gym.environments.checks import as_mask, check_reset, check_step
from grpo_adapters.gym.environments.vector_environments import VectorEnvironments, is_vector_environment, note_player
from grpo_adapters.gym.observations.encoder import Features, ObservationEncoder, spaces_of

Masks = NDArray[np.bool_] | None


class Slots(Protocol):
    """Environments side by side.

    Attributes:
        num_slots: how many.
        environment: one of them, or the vector of all.
        takes_seeds: whether an episode begins from a seed of its own; else one follows from those before it.
    """

    num_slots: int
    environment: Any
    takes_seeds: bool

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Begin new episodes in some slots, each from its seed."""
        ...

    def observed(self, playing: Sequence[int]) -> tuple[list[int], Features, Masks]:
        """The slots to decide for, all that are played at least, their features and what they allow."""
        ...

    def step(self, slots: Sequence[int], actions: Any) -> tuple[Any, Any, Any]:
        """Act in the slots; rewards, whether an episode ended, and whether the step was one of an episode, [n] each."""
        ...

    def close(self) -> None:
        """Let go of the environments, where they were made here."""
        ...


class SeparateSlots:
    """Environments on their own, each of which steps only while it is played.

    Args:
        environments: one for each slot.
        is_owner: whether they are closed with this.
    """

    takes_seeds = True

    def __init__(self, environments: Sequence[gymnasium.Env[Any, Any]], *, is_owner: bool) -> None:
        self.environments = environments
        self.num_slots = len(environments)
        self.environment: Any = environments[0]
        self.encoder = ObservationEncoder(spaces_of(environments[0])[0])
        self._is_owner = is_owner
        self._player = object()
        self._features: list[Features] = [np.zeros(self.encoder.shape, dtype=self.encoder.dtype)] * len(environments)
        self._masks: list[Any] = [None] * len(environments)

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Reset their environments."""
        for slot, seed in seeds.items():
            note_player(self.environments[slot], self._player)
            self._observe(slot, *check_reset(self.environments[slot].reset(seed=seed), f"environment {slot}"))

    def observed(self, playing: Sequence[int]) -> tuple[list[int], Features, Masks]:
        """Those that are played."""
        told = [self._masks[slot] for slot in playing]
        features = np.stack([self._features[slot] for slot in playing])
        if all(mask is None for mask in told):
            return list(playing), features, None
        everything = np.ones_like(next(mask for mask in told if mask is not None))
        return list(playing), features, np.stack([everything if mask is None else mask for mask in told])

    def step(self, slots: Sequence[int], actions: Any) -> tuple[Any, Any, Any]:
        """One after the other."""
        rewards, done = np.zeros(self.num_slots), np.zeros(self.num_slots, dtype=bool)
        for slot, action in zip(slots, one_by_one(actions), strict=True):
            returned = self.environments[slot].step(action)
            observation, rewards[slot], terminated, truncated, info = check_step(returned, f"environment {slot}")
            done[slot] = terminated or truncated
            self._observe(slot, observation, info)
        return rewards, done, np.ones(self.num_slots, dtype=bool)

    def _observe(self, slot: int, observation: Any, info: Mapping[str, Any]) -> None:
        mask = info.get("action_mask")
        self._features[slot] = self.encoder.single(observation)
        self._masks[slot] = None if mask is None else as_mask(mask)

    def close(self) -> None:
        """Close what was made for this."""
        if self._is_owner:
            for environment in self.environments:
                environment.close()


class VectorSlots:
    """The environments of a vector, which all step at once.

    Args:
        envs: a vector environment.
        seed: of the first reset, where an episode cannot have a seed of its own.
    """

    def __init__(self, envs: Any, seed: int) -> None:
        self.environments = VectorEnvironments(envs, seed)
        self.num_slots = self.environments.num_envs
        self.environment: Any = envs
        self.takes_seeds = isinstance(getattr(envs, "unwrapped", None), SyncVectorEnv | AsyncVectorEnv)
        self._seed = seed
        self._features: Features | None = None

    def begin(self, seeds: Mapping[int, int]) -> None:
        """Reset those where an episode takes a seed; else all of them once, and leave the others to the vector."""
        if self.takes_seeds:
            self._features = self.environments.reset_to(seeds)
        elif self._features is None:
            self._features = self.environments.reset(self._seed)

    def observed(self, playing: Sequence[int]) -> tuple[list[int], Features, Masks]:
        """All slots."""
        assert self._features is not None
        return list(range(self.num_slots)), self._features, self.environments.masks

    def step(self, slots: Sequence[int], actions: Any) -> tuple[Any, Any, Any]:
        """All at once."""
        transition = self.environments.step(actions)
        self._features = transition.observations
        return transition.rewards, transition.done, transition.real

    def close(self) -> None:
        """Nothing was made here."""


def slots_for(environment: Any, num_envs: int | None, num_episodes: int, seed: int) -> Slots:
    """The slots of an environment, of a vector environment, or of a function that makes environments.

    Raises:
        TypeError: if it is neither.
        ValueError: if ``num_envs`` is below 1, or given where it says nothing.
    """
    is_maker = callable(environment) and not isinstance(environment, gymnasium.Env)
    if num_envs is not None and (num_envs < 1 or not is_maker):
        raise ValueError(
            f"num_envs is {num_envs}, expected at least 1, and only for a function that makes environments: pass "
            f"lambda: gymnasium.make('CartPole-v1'), say, to play several side by side"
        )
    if is_vector_environment(environment):
        return VectorSlots(environment, seed)
    if isinstance(environment, gymnasium.Env):
        return SeparateSlots([environment], is_owner=False)
    if is_maker:
        count = min(DEFAULT_NUM_ENVS if num_envs is None else num_envs, num_episodes)
        return SeparateSlots([make_one(environment) for _ in range(count)], is_owner=True)
    raise TypeError(
        f"environment is a {type(environment).__name__}, expected an environment, a vector environment, or a function "
        f"that makes an environment: pass gymnasium.make('CartPole-v1'), say"
    )


DEFAULT_NUM_ENVS = 8


def make_one(make_environment: Callable[[], Any]) -> gymnasium.Env[Any, Any]:
    """What a function makes, which must be an environment.

    Raises:
        TypeError: if it is no function, or makes something else.
    """
    if not callable(make_environment) or isinstance(make_environment, gymnasium.Env):
        raise TypeError(
            f"make_environment is a {type(make_environment).__name__}, expected a function that makes an environment: "
            f"pass lambda: gymnasium.make('CartPole-v1')"
        )
    environment = make_environment()
    if not isinstance(environment, gymnasium.Env):
        raise TypeError(f"make_environment made a {type(environment).__name__}, expected a gymnasium.Env")
    return environment
