"""Where a rollout keeps what was observed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from grpo_adapters.gym.environments.checks import check_finite
from grpo_adapters.gym.observations.columns import FeatureTensors, tensors
from grpo_adapters.gym.observations.encoder import Features
from grpo_adapters.gym.observations.frame_stacks import FrameStacks

MOST_FRAMES_OF_A_STACK = 16
ROOM_FOR_RESETS = 1.25


class ObservationStore:
    """The observations of a rollout, [T, n, ...], as they come: stored once, and of stacked frames each frame once.

    Args:
        num_steps: T.
        observations: those of the first step, of which the others have the shape and dtype.
    """

    def __init__(self, num_steps: int, observations: Features) -> None:
        self._store: _WholeObservations | _SharedFrames = _WholeObservations(num_steps, observations)
        if _are_stacks(observations):
            self._store = _SharedFrames(num_steps, observations)

    def store(self, step: int, observations: Features) -> None:
        """Note what the n environments observed before a step, the next one."""
        if isinstance(self._store, _SharedFrames):
            if self._store.store_if_shared(step, observations):
                return
            self._store = self._store.whole(step)
        self._store.store(step, observations)

    def check(self, real: NDArray[np.bool_], seed: int) -> None:
        """Raise a NonFiniteError unless all is finite where ``real`` [T, n]; bytes are."""
        if isinstance(self._store, _WholeObservations):
            check_finite("observation", self._store.observations.swapaxes(0, 1), real, seed)

    def of_real_steps(self, real: NDArray[np.bool_]) -> tuple[FeatureTensors, ...]:
        """Those of each environment in turn at the steps that are ``real`` [T, n]."""
        return self._store.of_real_steps(real)


class _WholeObservations:
    """Environment by environment: fragments are views, one behind the other, from which gaps have been closed up."""

    def __init__(self, num_steps: int, observations: Features) -> None:
        num_envs, *shape = observations.shape
        self.observations = np.empty((num_envs, num_steps, *shape), dtype=observations.dtype)

    def store(self, step: int, observations: Features) -> None:
        self.observations[:, step] = observations

    def of_real_steps(self, real: NDArray[np.bool_]) -> tuple[FeatureTensors, ...]:
        everything = self.observations.reshape(-1, *self.observations.shape[2:])
        gaps = np.flatnonzero(~real.T.reshape(-1)).tolist()
        for number, (gap, next_gap) in enumerate(pairwise([*gaps, len(everything)])):
            everything[gap - number : next_gap - number - 1] = everything[gap + 1 : next_gap]
        kept = tensors(everything)[: len(everything) - len(gaps)]
        fragments: tuple[FeatureTensors, ...] = kept.split(real.sum(0).tolist())
        return fragments


class _SharedFrames:
    """Frames in the order in which they came, and for each stack the numbers of its frames, [T, n, K].

    A stack that is that of the step before, but for its first frame, takes one frame more; any other, such as the first
    of an episode, all of them. Where many are others, which is seen at the second step already, what comes is no
    stacks, and is better kept as a whole.
    """

    def __init__(self, num_steps: int, observations: Features) -> None:
        num_envs, num_stacked, *shape = observations.shape
        self.numbers = np.zeros((num_steps, num_envs, num_stacked), dtype=np.int64)
        self.frames = np.empty((self._most_frames(1), *shape), dtype=observations.dtype)
        self.num_frames = 0

    def _most_frames(self, num_steps: int) -> int:
        """That so many steps of stacks may take, some episodes' beginnings among them."""
        _, num_envs, num_stacked = self.numbers.shape
        return int(ROOM_FOR_RESETS * num_envs * (num_steps - 1 + num_stacked))

    def store_if_shared(self, step: int, observations: Features) -> bool:
        """Store the stacks of a step, unless too few of all so far share their frames."""
        goes_on = self._goes_on(step, observations)
        stacks = observations[~goes_on]
        num_new = len(observations) - len(stacks) + stacks.shape[0] * stacks.shape[1]
        if self.num_frames + num_new > self._most_frames(step + 1):
            return False
        self.numbers[step, goes_on, :-1] = self.numbers[step - 1, goes_on, 1:]
        self.numbers[step, goes_on, -1] = self._added(observations[goes_on, -1])
        self.numbers[step, ~goes_on] = self._added(stacks.reshape(-1, *stacks.shape[2:])).reshape(stacks.shape[:2])
        return True

    def whole(self, num_steps: int) -> _WholeObservations:
        """The stacks of the first steps as they are, in a store for as many as this one."""
        everything = _WholeObservations(len(self.numbers), self.frames[self.numbers[0]])
        for step, numbers in enumerate(self.numbers[:num_steps]):
            everything.store(step, self.frames[numbers])
        return everything

    def _goes_on(self, step: int, observations: Features) -> NDArray[np.bool_]:
        """Which of the n stacks are those of the step before, with a new frame behind."""
        if step == 0:
            return np.zeros(len(observations), dtype=bool)
        before = self.frames[self.numbers[step - 1, :, 1:]]
        same: NDArray[np.bool_] = (before == observations[:, :-1]).reshape(len(observations), -1).all(1)
        return same

    def _added(self, frames: Features) -> NDArray[np.int64]:
        """The numbers of frames that are stored behind the others."""
        if self.num_frames + len(frames) > len(self.frames):
            room = np.empty((self._most_frames(len(self.numbers)), *frames.shape[1:]), dtype=frames.dtype)
            room[: self.num_frames] = self.frames[: self.num_frames]
            self.frames = room
        numbers = np.arange(self.num_frames, self.num_frames + len(frames))
        self.frames[numbers] = frames
        self.num_frames += len(frames)
        return numbers

    def of_real_steps(self, real: NDArray[np.bool_]) -> tuple[FeatureTensors, ...]:
        frames = torch.from_numpy(self.frames)[: self.num_frames]
        numbers = torch.from_numpy(self.numbers)
        return tuple(FrameStacks(frames, numbers[own, slot]) for slot, own in enumerate(torch.from_numpy(real).T))


def _are_stacks(observations: Features) -> bool:
    """Whether observations may be stacks of frames, which is seen for sure as they come."""
    has_frames = observations.dtype == np.uint8 and observations.ndim >= 4
    return bool(has_frames and 2 <= observations.shape[1] <= MOST_FRAMES_OF_A_STACK)
