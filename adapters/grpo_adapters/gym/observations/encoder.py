"""Observations of gymnasium's spaces as features, many at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from grpo_adapters.gym.observations.columns import Columns
from grpo_adapters.gym.observations.nested_spaces import NESTED, batch_of_one, parts_of, values_of
from grpo_adapters.gym.observations.observation_parts import ObservationPart, is_image
from grpo_adapters.gym.playing.stepwise import require_stepwise

Features = NDArray[Any]
WHOLE_TEXT = "text"


class ObservationEncoder:
    """Turns a batch of an observation space's observations into an array of features.

    Box observations keep their shape, and images, a Box of uint8 in two dimensions or more, their dtype too; all else
    is float32. Discrete observations become one-hot, and the entries of a Dict are flattened and joined in the order of
    the space.

    Where a Dict holds an image, a text or another Dict, and of a Tuple, the parts stay apart: features are records of
    NumPy's, by path (``"arm/camera"``, ``"0"``), which reach networks as :class:`Columns`. Discrete parts are then the
    numbers of their choices, from 0, int64, and so are the characters of a Text, from 1, with 0 behind its end.

    Attributes:
        shape: of the features of one observation; () where parts stay apart.
        dtype: of the features, uint8 for images and float32 for all else; of the records where parts stay apart.
        parts: what encodes each part, by path; the whole has the path ``""``.
        is_structured: whether parts stay apart.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of these.

    Raises:
        TypeError: if the space is another; the message names the part.

    Example:
        >>> encoder = ObservationEncoder(spaces.Dict(level=spaces.Discrete(3), speed=spaces.Box(-1, 1, (2,))))
        >>> encoder.shape
        (5,)
        >>> encoder({"level": np.array([2]), "speed": np.array([[0.5, -0.5]])})
        array([[ 0. ,  0. ,  1. ,  0.5, -0.5]], dtype=float32)
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.space = space
        self.is_structured = _stays_apart(space)
        found, keys = {WHOLE_TEXT: space} if isinstance(space, spaces.Text) else parts_of(space), _keys_of_parts(space)
        if not found:
            raise TypeError(f"observation space {space} has no parts, expected something to decide on: name a key")
        self.parts = {
            name: ObservationPart(part, name, key=keys.get(name), as_numbers=self.is_structured)
            for name, part in found.items()
        }
        self.dtype: Any = np.dtype(np.float32)
        self.shape: tuple[int, ...] = ()
        if self.is_structured:
            columns = [(name, part.dtype, part.shape) for name, part in self.parts.items()]
            self.dtype = np.dtype(columns, align=True)
        elif isinstance(space, spaces.Dict):
            self.shape = (sum(self._widths),)
        else:
            self.shape, self.dtype = self.parts[""].shape, np.dtype(self.parts[""].dtype)

    @property
    def _widths(self) -> list[int]:
        return [int(np.prod(part.shape)) for part in self.parts.values()]

    def __call__(self, observations: Any) -> Features:
        """Features [n, *shape] of n observations, as a vector environment returns them."""
        if "" in self.parts:
            return self.parts[""](observations)
        values = values_of(self.space, observations)
        encoded = {name: part(own) for (name, part), (_, own) in zip(self.parts.items(), values, strict=True)}
        lengths = {name: len(part) for name, part in encoded.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"parts of observations came in lengths {lengths}, expected one length: a row of each")
        if not self.is_structured:
            return np.concatenate([part.reshape(len(part), -1) for part in encoded.values()], axis=1, dtype=np.float32)
        features = np.zeros(len(next(iter(encoded.values()))), dtype=self.dtype)
        for name, part in encoded.items():
            features[name] = part
        return features

    def single(self, observation: Any) -> Features:
        """Features [*shape] of one observation, in memory of their own: an environment may write over what it gave."""
        features: Features = self(batch_of_one(self.space, observation))[0].copy()
        return features

    def by_key(self, features: torch.Tensor) -> Columns:
        """The parts of a Dict whose features are flattened, [n, ...] each."""
        pieces = features.split(self._widths, dim=1)
        named = zip(self.parts.items(), pieces, strict=True)
        return Columns({name: piece.reshape(-1, *part.shape) for (name, part), piece in named})


def _stays_apart(space: gymnasium.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return any(isinstance(part, (*NESTED, spaces.Text)) or is_image(part) for part in space.values())
    return isinstance(space, spaces.Tuple | spaces.Text)


def _keys_of_parts(space: gymnasium.Space[Any]) -> dict[str, str]:
    """By which key of a Dict each of its parts can be dropped, where another is left."""
    if not isinstance(space, spaces.Dict) or len(space) < 2:
        return {}
    return {path: key for key, part in space.items() for path in parts_of(part, str(key))}


def without_keys(environment: Any, *names: str) -> Any:
    """An environment, or a vector of them, whose observations lack some keys of their Dict.

    Args:
        environment: observes a Dict.
        names: of the keys to drop.

    Returns:
        The environment in a wrapper that drops them.

    Raises:
        TypeError: if it observes no Dict.
        ValueError: if there is no such key, or none is left.

    Example:
        >>> from gymnasium.wrappers import TransformObservation
        >>> space = spaces.Dict(speed=spaces.Box(-1, 1, (1,)), debug=spaces.Graph(spaces.Discrete(2), None))
        >>> environment = TransformObservation(gymnasium.make("CartPole-v1"), lambda seen: {"speed": seen[1:2]}, space)
        >>> list(without_keys(environment, "debug").observation_space)
        ['speed']
    """
    space = spaces_of(environment)[0]
    if not isinstance(space, spaces.Dict):
        raise TypeError(f"without_keys was given an environment that observes {space}, expected a Dict to drop keys of")
    unknown = sorted(set(names) - set(space))
    kept = [name for name in space if name not in names]
    if unknown or not kept:
        raise ValueError(
            f"without_keys was asked to drop {list(names)} of the keys {list(space)}: name some of these, and leave one"
        )
    is_vector = isinstance(environment, gymnasium.vector.VectorEnv)
    wrappers = gymnasium.wrappers.vector if is_vector else gymnasium.wrappers
    return wrappers.FilterObservation(environment, filter_keys=kept)


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
        return left.shape == right.shape and is_image(left) == is_image(right)
    if isinstance(left, spaces.Dict) and isinstance(right, spaces.Dict):
        return list(left) == list(right) and all(_are_encoded_alike(left[name], right[name]) for name in left)
    if isinstance(left, spaces.Tuple) and isinstance(right, spaces.Tuple):
        return len(left) == len(right) and all(map(_are_encoded_alike, left, right))
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
