"""Checks of what environments gave.

Each error names the environment and the step.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grpo import NonFiniteError
from grpo_adapters.gym.observations.columns import finite_rows, not_finite_parts


def check_finite(name: str, values: NDArray[Any], real: NDArray[np.bool_], seed: int) -> None:
    """Observations [T, n, ...] or rewards [T, n] of a rollout must be finite where ``real`` [T, n]."""
    bad = ~finite_rows(values, 2) & real
    if bad.any():
        step, slot = (int(index) for index in np.argwhere(bad)[0])
        raise NonFiniteError(not_finite(name, values[step, slot], f"environment {slot} (seed {seed + slot})", step))


def check_successors(successors: Mapping[tuple[int, int], NDArray[Any]], real: NDArray[np.bool_], seed: int) -> None:
    """What came after steps of environments, by step and environment, must be finite where ``real`` [T, n]."""
    for (step, slot), features in successors.items():
        if real[step, slot] and not finite_rows(features, 0):
            which = f"environment {slot} (seed {seed + slot})"
            raise NonFiniteError(not_finite("observation", features, which, step + 1))


def not_finite(name: str, value: Any, which: str, step: int) -> str:
    """What to say of an observation or a reward that is not finite."""
    came = not_finite_parts(np.asarray(value))
    return (
        f"{which} gave the {name} {came} at step {step} of the rollout, expected finite numbers: "
        f"clip them in a wrapper such as gymnasium.wrappers.TransformObservation or TransformReward"
    )


def check_masks(masks: NDArray[np.bool_], real: NDArray[np.bool_], sizes: Sequence[int], seed: int) -> None:
    """Masks [T, n, K] of a rollout must allow something of each choice where ``real`` [T, n]."""
    nothing = ~allows_something(masks, sizes) & real
    if nothing.any():
        step, slot = (int(index) for index in np.argwhere(nothing)[0])
        raise ValueError(nothing_allowed(f"environment {slot} (seed {seed + slot})", step))


def check_reset(returned: Any, which: str) -> tuple[Any, Mapping[str, Any]]:
    """The observation and the information that ``reset`` of an environment returned.

    Raises:
        TypeError: if it returned something else, as those of before gymnasium do.
    """
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], Mapping):
        raise TypeError(
            f"{which} returned {returned!r:.200} from reset, expected (observation, info), info a dictionary, as "
            f"gymnasium has it"
        )
    return returned


def check_step(returned: Any, which: str) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """The observation, reward, ends and information that ``step`` of an environment returned.

    Raises:
        TypeError: if it returned something else, as those of before gymnasium do, or the reward is no number.
    """
    if not isinstance(returned, tuple) or len(returned) != 5 or not isinstance(returned[4], Mapping):
        raise TypeError(
            f"{which} returned {returned!r:.200} from step, expected (observation, reward, terminated, truncated, "
            f"info), info a dictionary, as gymnasium has it"
        )
    observation, reward, terminated, truncated, info = returned
    if np.ndim(reward) > 0 or np.asarray(reward).dtype.kind not in "biuf":
        raise TypeError(f"{which} gave the reward {reward!r:.200}, expected one number, a float")
    return observation, float(reward), bool(terminated), bool(truncated), info


def as_mask(values: Any, *, num_dimensions: int = 1) -> NDArray[np.bool_]:
    """Which choices are allowed, as bool, in an array of its own.

    Raises:
        ValueError: if it has fewer dimensions, or is told in other numbers than 0 and 1, such as those that are added
            to logits.
    """
    mask = np.array(values)
    if mask.ndim < num_dimensions:
        raise ValueError(f"an action_mask is {values!r:.200}, expected an entry for each option of each choice")
    if mask.dtype != np.bool_ and not (mask.dtype.kind in "iuf" and ((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"an action_mask is {values!r:.200}, expected True or False for each choice, or 1 and 0: of what is added "
            f"to logits, 0 or -inf, pass values == 0"
        )
    return mask.astype(bool)


def allows_something(masks: NDArray[np.bool_], sizes: Sequence[int]) -> NDArray[np.bool_]:
    """Whether masks [..., sum of sizes] leave an option of each choice, [...]."""
    parts = np.split(masks, np.cumsum(sizes)[:-1], axis=-1) if sizes else []
    return np.all([part.any(-1) for part in parts], axis=0) if parts else np.ones(masks.shape[:-1], dtype=bool)


def nothing_allowed(which: str, step: int) -> str:
    """What to say of a mask that allows nothing."""
    return (
        f"{which} gave an action_mask that allows nothing at step {step} of the rollout: end the episode where no "
        f"action is left"
    )


ENDLESS = 10_000
"""Steps after which an episode is told of, where its environment has no time limit."""


def warn_if_endless(environment: Any, num_steps: int) -> None:
    """Warn of an episode that may never end.

    Args:
        environment: in which it is played.
        num_steps: that it has.

    Warns:
        UserWarning: where it has just become longer than most, and nothing is known to end it.
    """
    if num_steps == ENDLESS and getattr(getattr(environment, "spec", None), "max_episode_steps", None) is None:
        warnings.warn(
            f"an episode has {ENDLESS:,} steps by now, and its environment has no time limit: a policy may go in "
            f"circles for ever. Wrap the environment in gymnasium.wrappers.TimeLimit(environment, max_episode_steps)",
            stacklevel=2,
        )


def check_seed(value: Any, name: str) -> int:
    """A seed as environments take it."""
    if isinstance(value, torch.Tensor | np.integer):
        value = value.item()
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{name} is {value!r}, expected a seed, an integer of at least 0, for the environment's reset")
    return value


def is_integer(value: Any) -> bool:
    """Whether it is an integer, Python's or NumPy's, and no switch."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_count(value: Any, name: str, what: str) -> int:
    """A number of things, of which there is one at least.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is below 1.
    """
    if not is_integer(value):
        raise TypeError(f"{name} is {value!r}, expected an integer of at least 1: {what}")
    if value < 1:
        raise ValueError(f"{name} is {value}, expected at least 1: {what}")
    return int(value)


def seed_from(*numbers: int) -> int:
    """A seed of 31 bits that follows from these."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def check_state(state_dict: Any, expected: set[str], owner: object) -> None:
    """A state must hold just what its owner put in."""
    if not isinstance(state_dict, Mapping) or state_dict.keys() != expected:
        came = sorted(state_dict) if isinstance(state_dict, Mapping) else type(state_dict).__name__
        raise ValueError(
            f"{type(owner).__name__}.load_state_dict was given {came}, expected {sorted(expected)}: pass what "
            f"state_dict() of one that was constructed in the same way returned"
        )
