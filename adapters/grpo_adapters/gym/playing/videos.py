"""Videos of the episodes that a policy plays."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.wrappers import RecordVideo

from grpo_adapters.gym.environments.checks import check_seed
from grpo_adapters.gym.environments.evaluation_slots import make_one
from grpo_adapters.gym.playing.evaluation import evaluate
from grpo_adapters.gym.policies.gym_policy import GymPolicy


def record_video(
    policy: GymPolicy,
    make_environment: Callable[[], gymnasium.Env[Any, Any]],
    folder: str | os.PathLike[str],
    num_episodes: int = 1,
    *,
    seed: int = 10_000,
    deterministic: bool = True,
) -> list[Path]:
    """Play whole episodes, as :func:`evaluate` does, and film them with moviepy.

    Args:
        policy: the policy; it learns nothing.
        make_environment: makes an environment that renders to arrays:
            ``lambda: gymnasium.make("CartPole-v1", render_mode="rgb_array")``.
        folder: for the videos; made where there is none.
        num_episodes: how many.
        seed: episode i is reset with ``seed + i``.
        deterministic: play the most probable action, or draw one.

    Returns:
        The files ``seed-10000.mp4`` and so on, one for each episode; what had these names is replaced.

    Raises:
        TypeError: if ``make_environment`` makes no environment.
        ValueError: if what it makes does not render to arrays, or as :func:`evaluate` does.
    """
    seed = check_seed(seed, "seed")
    with filmed(make_environment, folder, range(seed, seed + num_episodes)) as (environment, files):
        evaluate(policy, environment, num_episodes, seed=seed, deterministic=deterministic)
    return files


@contextmanager
def filmed(
    make_environment: Callable[[], gymnasium.Env[Any, Any]], folder: str | os.PathLike[str], seeds: Sequence[int]
) -> Iterator[tuple[gymnasium.Env[Any, Any], list[Path]]]:
    """An environment whose next episodes are filmed, and the files, which are there in the end if nothing failed."""
    environment = make_one(make_environment)
    if environment.render_mode != "rgb_array":
        environment.close()
        raise ValueError(
            f"make_environment made an environment with render_mode {environment.render_mode!r}, expected 'rgb_array', "
            f"which can be filmed: pass lambda: gymnasium.make('CartPole-v1', render_mode='rgb_array')"
        )
    files = [Path(folder) / f"seed-{seed}.mp4" for seed in seeds]
    with tempfile.TemporaryDirectory() as temporary:
        videos = os.path.join(temporary, "videos")
        recorder: Any = RecordVideo(environment, videos, episode_trigger=lambda _: True, disable_logger=True)
        try:
            yield recorder, files
        finally:
            recorder.close()
        Path(folder).mkdir(parents=True, exist_ok=True)
        for episode, file in enumerate(files):
            shutil.move(os.path.join(videos, f"rl-video-episode-{episode}.mp4"), file)
