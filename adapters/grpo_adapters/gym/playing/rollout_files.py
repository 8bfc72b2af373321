"""Files of episodes that can be played again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from grpo_adapters.gym.actions.action_batches import from_record, recorded
from grpo_adapters.gym.environments.evaluation_slots import make_one
from grpo_adapters.gym.playing.evaluation import EvaluationResult, evaluate
from grpo_adapters.gym.playing.videos import filmed
from grpo_adapters.gym.policies.gym_policy import GymPolicy

ARRAYS = ("seeds", "lengths", "actions", "rewards", "ended", "observations")


@dataclass(frozen=True)
class ReplayDifference:
    """Where an episode that was played again first differs from what is in the file.

    Attributes:
        seed: what the episode was reset with.
        step: the step of the episode; -1 is the reset.
        what: ``"observation"``, ``"reward"`` or ``"end"``.
        recorded: what is in the file: a reward, how the step ended the episode, or the checksum of an observation.
        came: what came now.
    """

    seed: int
    step: int
    what: str
    recorded: Any
    came: Any

    def __str__(self) -> str:
        when = "the reset" if self.step < 0 else f"step {self.step}"
        return f"the episode of the seed {self.seed} differs at {when}: {self.what} {self.recorded}, now {self.came}"


def save_rollouts(
    path: str | os.PathLike[str],
    policy: GymPolicy,
    make_environment: Callable[[], gymnasium.Env[Any, Any]],
    num_episodes: int = 10,
    *,
    seed: int = 10_000,
    deterministic: bool = True,
) -> EvaluationResult:
    """Play whole episodes, as :func:`evaluate` does, and write them to a file for :func:`replay`.

    The file is NumPy's ``.npz`` without any pickled object: seeds, and of each step the action, the reward, whether it
    terminated (1) or truncated (2) the episode, and checksums of the observations.

    Args:
        path: the file; one that is there is replaced once all is played.
        policy: the policy; it learns nothing.
        make_environment: makes an environment: ``lambda: gymnasium.make("CartPole-v1")``.
        num_episodes: how many.
        seed: episode i is reset with ``seed + i``.
        deterministic: play the most probable action, or draw one.

    Returns:
        The result of the episodes, as of :func:`evaluate`.

    Raises:
        TypeError: if ``make_environment`` makes no environment.
        ValueError: as :func:`evaluate` does.

    Example:
        >>> import tempfile
        >>> policy = GymPolicy(gymnasium.make("CartPole-v1"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = save_rollouts(f"{folder}/a.npz", policy, lambda: gymnasium.make("CartPole-v1"), num_episodes=2)
        ...     replay(f"{folder}/a.npz", lambda: gymnasium.make("CartPole-v1"))
        []
        >>> result.seeds.tolist()
        [10000, 10001]
    """
    recorder = _Recorder(make_one(make_environment))
    try:
        result = evaluate(policy, recorder, num_episodes, seed=seed, deterministic=deterministic)
    finally:
        recorder.close()
    path = Path(path)
    arrays: dict[str, Any] = recorder.arrays()
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)
    return result


def replay(
    path: str | os.PathLike[str],
    make_environment: Callable[[], gymnasium.Env[Any, Any]],
    *,
    video_folder: str | os.PathLike[str] | None = None,
) -> list[ReplayDifference]:
    """Play the recorded actions again, and tell where the environment does something else than it did.

    Args:
        path: a file that :func:`save_rollouts` wrote.
        make_environment: makes an environment as the one that was recorded. Made with ``render_mode="human"`` it shows
            the episodes.
        video_folder: where to film the episodes, as :func:`record_video` does; the environment must render to arrays.

    Returns:
        The first difference of each episode that differs; none where all of them are as they were, bit for bit. An
        episode is played on after a difference, for as long as it lasts and there are actions.

    Raises:
        TypeError: if ``make_environment`` makes no environment.
        ValueError: if the file holds no rollouts, or actions that are not in the environment's action space.
        FileNotFoundError: if there is no file.

    Example:
        >>> import tempfile
        >>> policy = GymPolicy(gymnasium.make("CartPole-v1"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = save_rollouts(f"{folder}/a.npz", policy, lambda: gymnasium.make("CartPole-v1"), num_episodes=1)
        ...     print(*replay(f"{folder}/a.npz", lambda: gymnasium.make("CartPole-v1", max_episode_steps=3)))
        the episode of the seed 10000 differs at step 2: end 0, now 2
    """
    recorded = _read(path)
    differences = []
    with ExitStack() as stack:
        if video_folder is None:
            environment = make_one(make_environment)
            stack.callback(environment.close)
        else:
            seeds = recorded["seeds"].tolist()
            environment, _ = stack.enter_context(filmed(make_environment, video_folder, seeds))
        ends = np.cumsum(recorded["lengths"])
        for episode, (start, end) in enumerate(zip(ends - recorded["lengths"], ends, strict=True)):
            steps = {name: recorded[name][start:end] for name in ("actions", "rewards", "ended")}
            checksums = recorded["observations"][start + episode : end + episode + 1]
            difference = _replay_episode(environment, int(recorded["seeds"][episode]), steps, checksums)
            if difference is not None:
                differences.append(difference)
    return differences


def _replay_episode(
    environment: gymnasium.Env[Any, Any], seed: int, steps: dict[str, NDArray[Any]], checksums: NDArray[np.uint64]
) -> ReplayDifference | None:
    """The first difference of an episode."""
    recorder = _Recorder(environment)
    recorder.reset(seed=seed)
    first: ReplayDifference | None = None
    if recorder.observations[0] != checksums[0]:
        first = ReplayDifference(seed, -1, "observation", hex(checksums[0]), hex(recorder.observations[0]))
    for step, action in enumerate(steps["actions"]):
        action = from_record(environment.action_space, np.asarray(action))
        if not environment.action_space.contains(action):
            raise ValueError(
                f"the action {action} of step {step} (seed {seed}) is not in {environment.action_space}: make the "
                f"environment that the rollouts were recorded in"
            )
        recorder.step(action)
        compared = (
            ("observation", hex(checksums[step + 1]), hex(recorder.observations[-1])),
            ("reward", float(steps["rewards"][step]), recorder.rewards[-1]),
            ("end", int(steps["ended"][step]), recorder.ended[-1]),
        )
        for what, expected, came in compared:
            if first is None and repr(expected) != repr(came):
                first = ReplayDifference(seed, step, what, expected, came)
        if recorder.ended[-1]:
            break
    return first


class _Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes what an environment is asked, and what it gives."""

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        super().__init__(environment)
        self.seeds: list[int] = []
        self.lengths: list[int] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.ended: list[int] = []
        self.observations: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.seeds.append(-1 if seed is None else seed)
        self.lengths.append(0)
        self.observations.append(_checksum(observation))
        return observation, info

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.lengths[-1] += 1
        self.actions.append(recorded(self.action_space, action))
        self.rewards.append(float(reward))
        self.ended.append(int(terminated) + 2 * int(truncated))
        self.observations.append(_checksum(observation))
        return observation, reward, terminated, truncated, info

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, end to end."""
        kinds = {"lengths": np.int64, "seeds": np.int64, "rewards": np.float64, "ended": np.int8}
        arrays = {name: np.array(getattr(self, name), dtype=kind) for name, kind in kinds.items()}
        return {**arrays, "actions": np.stack(self.actions), "observations": np.array(self.observations, np.uint64)}


def _checksum(observation: Any) -> int:
    """64 bits that follow from an observation's numbers, shape and precision."""
    digest = hashlib.blake2b(digest_size=8)
    for name, part in sorted(_arrays_in(observation).items()):
        digest.update(f"{name} {part.dtype.str} {part.shape} ".encode())
        digest.update(part.tobytes())
    return int.from_bytes(digest.digest(), "little")


def _arrays_in(observation: Any, path: str = "") -> dict[str, NDArray[Any]]:
    """The arrays in nested dictionaries and tuples, by path."""
    if not isinstance(observation, dict | tuple):
        return {path: np.asarray(observation)}
    named = observation.items() if isinstance(observation, dict) else enumerate(observation)
    found: dict[str, NDArray[Any]] = {}
    for name, part in named:
        found |= _arrays_in(part, f"{path}/{name}" if path else str(name))
    return found


def _read(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of a file, which fit each other."""
    wrong = f"{path} holds no rollouts: pass a file that save_rollouts wrote"
    with Path(path).open("rb") as stored:
        try:
            with np.load(stored, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ARRAYS}
        except Exception as error:
            raise ValueError(f"{wrong} ({type(error).__name__}: {error})") from error
    num_steps, num_episodes = len(arrays["actions"]), len(arrays["seeds"])
    expected = {"lengths": num_episodes, "rewards": num_steps, "ended": num_steps}
    expected["observations"] = num_steps + num_episodes
    fits = all(len(arrays[name]) == count for name, count in expected.items())
    if not fits or int(arrays["lengths"].sum()) != num_steps or (arrays["lengths"] < 1).any():
        raise ValueError(f"{wrong} (its arrays do not fit each other)")
    return arrays
