"""What one part of an observation becomes: an array, many at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

NESTED = (spaces.Dict, spaces.Tuple)


def is_image(space: gymnasium.Space[Any]) -> bool:
    """Whether observations are pictures: a Box of uint8 in two dimensions or more."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2


def parts_of(space: gymnasium.Space[Any], path: str = "") -> dict[str, gymnasium.Space[Any]]:
    """The spaces in nested Dicts and Tuples, by path: ``{"arm/camera": ..., "0": ...}``."""
    if not isinstance(space, NESTED):
        return {path: space}
    named: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    parts: dict[str, gymnasium.Space[Any]] = {}
    for name, part in named:
        parts |= parts_of(part, f"{path}/{name}" if path else str(name))
    return parts


def part_at(space: gymnasium.Space[Any], value: Any, path: str) -> Any:
    """The part of an observation or action of a nested space."""
    while path and isinstance(space, NESTED):
        within: dict[Any, gymnasium.Space[Any]] = dict(
            space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        )
        name = next(name for name in within if path == str(name) or path.startswith(f"{name}/"))
        space, value, path = within[name], value[name], path[len(str(name)) + 1 :]
    return value


class ObservationPart:
    """Encodes the observations of a space without parts.

    Attributes:
        shape: of what one observation becomes.
        dtype: uint8 for images, int64 for numbers of choices, float32 for all else.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary or Text.
        name: path in the whole observation; empty for the whole.
        as_numbers: whether choices become their numbers, from 0, instead of one-hot.

    Raises:
        TypeError: if the space is another.
    """

    def __init__(self, space: gymnasium.Space[Any], name: str = "", *, as_numbers: bool = False) -> None:
        self.space, self.name, self.as_numbers = space, name, as_numbers
        self.dtype: Any = np.uint8 if is_image(space) else np.float32
        self.shape: tuple[int, ...]
        if isinstance(space, spaces.Box | spaces.MultiBinary):
            self.shape = tuple(space.shape)
        elif isinstance(space, spaces.Discrete):
            self._starts, self._sizes = np.array([space.start]), np.array([space.n])
            self.shape = () if as_numbers else (int(space.n),)
        elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self._starts, self._sizes = np.asarray(space.start), space.nvec
            self.shape = (len(space.nvec) if as_numbers else int(space.nvec.sum()),)
        elif isinstance(space, spaces.Text) and as_numbers:
            self.shape = (space.max_length,)
            self._numbers = {character: number + 1 for number, character in enumerate(space.character_list)}
        else:
            whole = f"observation space {space}"
            raise TypeError(
                f"{f'space {space} of {self._where(whole)}' if name else whole} is not supported, expected a Box, "
                f"Discrete, MultiDiscrete of one dimension, MultiBinary, Text, or a Dict or Tuple of these: "
                f"{self._other_space}"
            )
        if not isinstance(space, spaces.Box | spaces.MultiBinary) and as_numbers:
            self.dtype = np.int64

    def __call__(self, observations: Any) -> NDArray[Any]:
        """[n, *shape] for n observations, as a vector environment returns them."""
        if isinstance(self.space, spaces.Box | spaces.MultiBinary):
            return self._numeric(observations)
        if isinstance(self.space, spaces.Text):
            return self._characters(observations)
        numbers = np.asarray(observations).reshape(-1, len(self._sizes)) - self._starts
        outside = ((numbers < 0) | (numbers >= self._sizes)).any(axis=1)
        if outside.any():
            raise self._not_in_space(np.asarray(observations)[int(np.argmax(outside))])
        if self.as_numbers:
            chosen: NDArray[np.int64] = numbers.reshape(len(numbers), *self.shape).astype(np.int64)
            return chosen
        hot = np.zeros((len(numbers), *self.shape), dtype=np.float32)
        np.put_along_axis(hot, numbers + np.cumsum(self._sizes) - self._sizes, 1.0, axis=1)
        return hot

    def _numeric(self, observations: Any) -> NDArray[Any]:
        given = np.asarray(observations)
        if self.dtype == np.uint8 and given.dtype != np.uint8:
            fits = np.issubdtype(given.dtype, np.integer) and ((given >= 0) & (given <= 255)).all()
            if not fits:
                raise ValueError(
                    f"{self._where('an image')} came as {given.dtype} from {given.min()} to {given.max()}, expected "
                    f"uint8 from 0 to 255, as its space {self.space} says: {self._other_space}"
                )
        if given.shape[1:] != self.shape:
            raise ValueError(
                f"{self._where('an observation')} came in shape {list(given.shape[1:])}, expected {list(self.shape)}, "
                f"as its space says{self._layout_hint(given.shape[1:])}: {self._transform}"
            )
        converted: NDArray[Any] = given.astype(self.dtype, copy=False)
        return converted

    def _layout_hint(self, came: tuple[int, ...]) -> str:
        is_mixed = is_image(self.space) and len(came) > 2 and sorted(came) == sorted(self.shape)
        return " (channels are first in one and last in the other; np.moveaxis moves them)" if is_mixed else ""

    def _characters(self, observations: Any) -> NDArray[Any]:
        """Numbers of the characters, from 1, and 0 behind the end."""
        numbers = np.zeros((len(observations), *self.shape), dtype=np.int64)
        for row, text in zip(numbers, observations, strict=True):
            if not isinstance(text, str) or text not in self.space:
                raise self._not_in_space(text)
            row[: len(text)] = [self._numbers[character] for character in text]
        return numbers

    def _not_in_space(self, wrong: Any) -> ValueError:
        return ValueError(
            f"an environment gave {self._where('the observation')} {wrong!r}, which is not in its space {self.space}: "
            f"{self._other_space}"
        )

    def _where(self, whole: str) -> str:
        return f"the part {self.name!r} of the observation" if self.name else whole

    @property
    def _transform(self) -> str:
        return "wrap the environment in gymnasium.wrappers.TransformObservation"

    @property
    def _other_space(self) -> str:
        return (
            f"drop it, without_keys(environment, {self.name!r}), or {self._transform}" if self.name else self._transform
        )
