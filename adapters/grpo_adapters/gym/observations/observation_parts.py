"""What one part of an observation becomes: an array, many at a time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from grpo_adapters.gym.observations.nested_spaces import where


def is_image(space: gymnasium.Space[Any]) -> bool:
    """Whether observations are pictures: a Box of uint8 in two dimensions or more."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2


class ObservationPart:
    """Encodes the observations of a space without parts.

    Attributes:
        shape: of what one observation becomes.
        dtype: uint8 for images, int64 for numbers of choices, float32 for all else.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary or Text.
        name: path in the whole observation; empty for the whole.
        key: by which the part, with those beside it, can be dropped; None where it cannot.
        as_numbers: whether choices become their numbers, from 0, instead of one-hot.

    Raises:
        TypeError: if the space is another.
    """

    def __init__(
        self, space: gymnasium.Space[Any], name: str = "", *, key: str | None = None, as_numbers: bool = False
    ) -> None:
        self.space, self.name, self.key, self.as_numbers = space, name, key, as_numbers
        self.dtype: Any = np.uint8 if is_image(space) else np.float32
        self.shape: tuple[int, ...]
        if isinstance(space, spaces.Box | spaces.MultiBinary):
            self.shape = tuple(space.shape) if name else tuple(space.shape) or (1,)  # a network takes [n, 1], not [n]
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
        return self._choices(observations)

    def _choices(self, observations: Any) -> NDArray[Any]:
        given = self._array(observations)
        if given.shape[1:] != (1,) or len(self._sizes) > 1:
            self._check_shape(given, tuple(self.space.shape or ()))
        numbers = given.reshape(-1, len(self._sizes)) - self._starts
        outside = ~((numbers >= 0) & (numbers < self._sizes) & (numbers == np.floor(numbers))).all(axis=1)
        if outside.any():
            raise self._not_in_space(given[int(np.argmax(outside))])
        chosen: NDArray[np.int64] = numbers.astype(np.int64)
        if self.as_numbers:
            return chosen.reshape(len(numbers), *self.shape)
        hot = np.zeros((len(numbers), *self.shape), dtype=np.float32)
        np.put_along_axis(hot, chosen + np.cumsum(self._sizes) - self._sizes, 1.0, axis=1)
        return hot

    def _array(self, observations: Any) -> NDArray[Any]:
        """Real numbers, of whatever type."""
        try:
            given = np.asarray(observations)
        except ValueError as error:
            raise ValueError(f"{self._where('an observation')} came as no array, {error}: {self._transform}") from error
        if given.dtype.kind not in "biuf":
            raise ValueError(
                f"{self._where('an observation')} came as {given.dtype}, expected real numbers, as its space "
                f"{self.space} says: {self._other_space}"
            )
        return given

    def _check_shape(self, given: NDArray[Any], shape: tuple[int, ...]) -> None:
        if given.shape == shape:
            raise ValueError(
                f"{self._where('an observation')} came alone, in shape {list(shape)}: give several, "
                f"[{', '.join(map(str, ('n', *shape)))}], or one to act(policy, observation, info)"
            )
        if given.ndim == 0 or given.shape[1:] != shape:
            raise ValueError(
                f"{self._where('an observation')} came in shape {list(given.shape[1:])}, expected {list(shape)}, "
                f"as its space says{self._layout_hint(given.shape[1:])}: {self._transform}"
            )

    def _numeric(self, observations: Any) -> NDArray[Any]:
        given = self._array(observations)
        if self.dtype == np.uint8 and given.dtype != np.uint8:
            fits = np.issubdtype(given.dtype, np.integer) and ((given >= 0) & (given <= 255)).all()
            if not fits:
                raise ValueError(
                    f"{self._where('an image')} came as {given.dtype} from {given.min()} to {given.max()}, expected "
                    f"uint8 from 0 to 255, as its space {self.space} says: {self._other_space}"
                )
        self._check_shape(given, tuple(self.space.shape or ()))
        if isinstance(self.space, spaces.MultiBinary) and not ((given == 0) | (given == 1)).all():
            outside = ((given != 0) & (given != 1)).reshape(len(given), -1).any(axis=1)
            raise self._not_in_space(given[int(np.argmax(outside))])
        converted: NDArray[Any] = given.astype(self.dtype, copy=False)
        return converted.reshape(len(given), *self.shape)

    def _layout_hint(self, came: tuple[int, ...]) -> str:
        is_mixed = is_image(self.space) and len(came) > 2 and sorted(came) == sorted(self.shape)
        return " (channels are first in one and last in the other; np.moveaxis moves them)" if is_mixed else ""

    def _characters(self, observations: Any) -> NDArray[Any]:
        """Numbers of the characters, from 1, and 0 behind the end."""
        if isinstance(observations, str):
            raise ValueError(
                f"{self._where('an observation')} came as the one text {observations!r}, expected a sequence of texts: "
                f"give several, or one to act(policy, observation, info)"
            )
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
        return where(self.name, whole)

    @property
    def _transform(self) -> str:
        return "wrap the environment in gymnasium.wrappers.TransformObservation"

    @property
    def _other_space(self) -> str:
        if self.key is None:
            return self._transform
        return f"drop it, without_keys(environment, {self.key!r}), or {self._transform}"
