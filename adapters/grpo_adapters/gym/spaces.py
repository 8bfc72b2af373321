"""Observations of gymnasium's spaces as features, many at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from grpo_adapters.gym.stepwise import require_stepwise

Features = NDArray[np.float32 | np.uint8]


def is_image(space: gymnasium.Space[Any]) -> bool:
    """Whether observations are pictures: a Box of uint8 in two dimensions or more."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2


class ObservationEncoder:
    """Turns a batch of an observation space's observations into an array of features.

    Box observations keep their shape, and images, a Box of uint8 in two dimensions or more, their dtype too; all else
    is float32. Discrete observations become one-hot, and the entries of a Dict are flattened and joined in the order of
    the space.

    Attributes:
        shape: of the features of one observation.
        dtype: of the features, uint8 for images and float32 for all else.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.

    Raises:
        TypeError: if the space is another.

    Example:
        >>> encoder = ObservationEncoder(spaces.Dict(level=spaces.Discrete(3), speed=spaces.Box(-1, 1, (2,))))
        >>> encoder.shape
        (5,)
        >>> encoder({"level": np.array([2]), "speed": np.array([[0.5, -0.5]])})
        array([[ 0. ,  0. ,  1. ,  0.5, -0.5]], dtype=float32)
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space
        self.dtype: Any = np.uint8 if is_image(space) else np.float32
        self.shape: tuple[int, ...]
        if isinstance(space, spaces.Dict) and not any(isinstance(part, spaces.Dict) for part in space.values()):
            self._parts = {name: ObservationEncoder(part) for name, part in space.spaces.items()}
            self.shape = (sum(int(np.prod(part.shape)) for part in self._parts.values()),)
        elif isinstance(space, spaces.Box | spaces.MultiBinary):
            self.shape = tuple(space.shape)
        elif isinstance(space, spaces.Discrete):
            self._starts, self._sizes = np.array([space.start]), np.array([space.n])
            self.shape = (int(space.n),)
        elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self._starts, self._sizes = np.asarray(space.start), space.nvec
            self.shape = (int(space.nvec.sum()),)
        else:
            raise TypeError(
                f"observation space {space} is not supported, expected a Box, Discrete, MultiDiscrete, MultiBinary, or "
                f"a Dict of these: wrap the environment in gymnasium.wrappers.TransformObservation"
            )

    def __call__(self, observations: Any) -> Features:
        """Features [n, *shape] of n observations, as a vector environment returns them."""
        if isinstance(self.space, spaces.Dict):
            parts = [part(observations[name]) for name, part in self._parts.items()]
            return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1, dtype=np.float32)
        if isinstance(self.space, spaces.Box | spaces.MultiBinary):
            return np.asarray(observations, dtype=self.dtype)
        numbers = np.asarray(observations).reshape(-1, len(self._sizes)) - self._starts
        outside = ((numbers < 0) | (numbers >= self._sizes)).any(axis=1)
        if outside.any():
            wrong = np.asarray(observations)[int(np.argmax(outside))]
            raise ValueError(f"an environment gave the observation {wrong}, which is not in its space {self.space}")
        hot = np.zeros((len(numbers), *self.shape), dtype=np.float32)
        np.put_along_axis(hot, numbers + np.cumsum(self._sizes) - self._sizes, 1.0, axis=1)
        return hot

    def single(self, observation: Any) -> Features:
        """Features [*shape] of one observation."""
        if isinstance(self.space, spaces.Dict):
            batch: Any = {name: np.asarray(observation[name])[None] for name in self._parts}
        else:
            batch = np.asarray(observation)[None]
        features: Features = self(batch)[0]
        return features


def check_same_spaces(policy: Any, sampler: Any) -> None:
    """A sampler's environments must be such as a policy was built for, whatever the bounds of their observations.

    Raises:
        TypeError: if it is no :class:`StepwisePolicy`; the message names what it lacks.
        ValueError: if they are others.
    """
    require_stepwise(policy, type(sampler).__name__)
    expected, came = spaces_of(policy), spaces_of(sampler)
    if not _are_encoded_alike(expected[0], came[0]) or expected[1] != came[1]:
        raise ValueError(
            f"policy {type(policy).__name__} was built for observations {expected[0]} and actions {expected[1]}, but "
            f"{type(sampler).__name__} plays environments with observations {came[0]} and actions {came[1]}: build the "
            f"policy from this {type(sampler).__name__}"
        )


def _are_encoded_alike(left: gymnasium.Space[Any], right: gymnasium.Space[Any]) -> bool:
    if isinstance(left, spaces.Box) and isinstance(right, spaces.Box):
        return left.shape == right.shape
    if isinstance(left, spaces.Dict) and isinstance(right, spaces.Dict):
        return list(left) == list(right) and all(_are_encoded_alike(left[name], right[name]) for name in left)
    return left == right


def spaces_of(environment: Any) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    """Observation and action space of one environment, be it an environment, a vector of them, or a sampler."""
    for names in (("single_observation_space", "single_action_space"), ("observation_space", "action_space")):
        observation_space, action_space = (getattr(environment, name, None) for name in names)
        if isinstance(observation_space, gymnasium.Space) and isinstance(action_space, gymnasium.Space):
            return observation_space, action_space
    raise TypeError(
        f"environment is a {type(environment).__name__}, expected a gymnasium environment, a vector environment, "
        f"an EpisodeSampler or a FragmentSampler: pass gymnasium.make('CartPole-v1'), say"
    )
