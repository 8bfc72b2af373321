"""Episodes in files: played again as they were, or told where they differ; videos of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gym_environments import MatchingEnv, ScriptedEnv, SpacesEnv
from gymnasium import spaces

from grpo_adapters.gym import GymPolicy, ReplayDifference, evaluate, record_video, replay, save_rollouts

MAKERS: dict[str, Callable[[], Any]] = {
    "discrete": lambda: gymnasium.make("CartPole-v1"),
    "continuous": lambda: gymnasium.make("Pendulum-v1", max_episode_steps=20),
    "masked": lambda: MatchingEnv(masked=True),
    "dictionary": lambda: SpacesEnv(
        spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}), spaces.MultiDiscrete([2, 3])
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_replayed_is_as_it_was(kind: str, tmp_path: Path) -> None:
    make = MAKERS[kind]
    policy, path = GymPolicy(make()), tmp_path / "rollouts"
    generator = policy.generator.get_state()
    result = save_rollouts(path, policy, make, 3, seed=5, deterministic=False)
    policy.generator.set_state(generator)
    again = evaluate(policy, make, 3, seed=5, deterministic=False)
    assert result.returns == pytest.approx(again.returns)
    assert result.seeds is not None
    assert result.seeds.tolist() == [5, 6, 7]
    assert replay(path, make) == []
    assert [file.name for file in tmp_path.iterdir()] == ["rollouts"]
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["lengths"].tolist() == result.lengths.tolist()
        returns = [part.sum() for part in np.split(arrays["rewards"], np.cumsum(arrays["lengths"])[:-1])]
        assert returns == pytest.approx(result.returns)


class Changed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Does one thing else at the second step of the episode of the seed 3."""

    def __init__(self, what: str) -> None:
        super().__init__(ScriptedEnv())
        self.what = what

    def reset(self, **arguments: Any) -> Any:
        observation, info = self.env.reset(**arguments)
        environment: Any = self.env.unwrapped
        return observation + (self.what == "start" and environment.seed == 3), info

    def step(self, action: Any) -> Any:
        environment: Any = self.env.unwrapped
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (environment.seed, environment.steps) == (2, 2):
            observation = observation + (self.what == "observation")
            reward = float(reward) + (self.what == "reward")
            terminated = terminated or self.what == "end"
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("nothing", None),
        ("start", (3, -1, "observation")),
        ("observation", (2, 1, "observation")),
        ("reward", (2, 1, "reward")),
        ("end", (2, 1, "end")),
    ],
)
def test_where_it_differs_is_told(what: str, expected: Any, tmp_path: Path) -> None:
    """Episodes of the seeds 2, 3 and 4, of 5, 1 and 2 steps."""
    save_rollouts(tmp_path / "rollouts.npz", GymPolicy(ScriptedEnv()), ScriptedEnv, 3, seed=2)
    differences = replay(tmp_path / "rollouts.npz", lambda: Changed(what))
    assert [(difference.seed, difference.step, difference.what) for difference in differences] == (
        [] if expected is None else [expected]
    )


def test_a_difference_in_words() -> None:
    assert str(ReplayDifference(3, 1, "reward", 1.0, 2.5)) == (
        "the episode of the seed 3 differs at step 1: reward 1.0, now 2.5"
    )
    assert "differs at the reset: observation 0x1, now 0x2" in str(ReplayDifference(3, -1, "observation", "0x1", "0x2"))


def test_files_that_hold_no_rollouts(tmp_path: Path) -> None:
    policy = GymPolicy(ScriptedEnv())
    good, bad = tmp_path / "good", tmp_path / "bad"
    save_rollouts(good, policy, ScriptedEnv, 2)
    with np.load(good) as stored:
        arrays: dict[str, Any] = dict(stored)
    contents: list[bytes | dict[str, Any]] = [b"text", b"", good.read_bytes()[:100], {"actions": arrays["actions"]}]
    contents += [{**arrays, "rewards": arrays["rewards"][1:]}, {**arrays, "seeds": np.array([object(), 2])}]
    for content in contents:
        if isinstance(content, bytes):
            bad.write_bytes(content)
        else:
            with bad.open("wb") as file:
                np.savez(file, **content)
        with pytest.raises(ValueError, match="bad holds no rollouts: pass a file that save_rollouts wrote"):
            replay(bad, ScriptedEnv)
    np.save(tmp_path / "one.npy", arrays["actions"])
    with pytest.raises(ValueError, match=r"one\.npy holds no rollouts"):
        replay(tmp_path / "one.npy", ScriptedEnv)
    with pytest.raises(FileNotFoundError):
        replay(tmp_path / "none", ScriptedEnv)
    with pytest.raises(ValueError, match=r"the action [01] of step 0 \(seed 10000\) is not in Box.*: make the env"):
        replay(good, MAKERS["continuous"])


def test_a_file_stays_as_it_is_where_playing_fails(tmp_path: Path) -> None:
    policy, path = GymPolicy(ScriptedEnv()), tmp_path / "rollouts"
    save_rollouts(path, policy, ScriptedEnv, 2)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="the wheel came off"):
        save_rollouts(path, policy, lambda: ScriptedEnv(fails_at=(10_001, 0, 0)), 2)
    assert path.read_bytes() == before


@pytest.mark.parametrize("function", [replay, save_rollouts, record_video])
def test_what_makes_no_environment(function: Any, tmp_path: Path) -> None:
    policy, path = GymPolicy(ScriptedEnv()), tmp_path / "rollouts"
    save_rollouts(path, policy, ScriptedEnv, 1)
    before: Any = {replay: (path,), save_rollouts: (path, policy), record_video: (policy,)}[function]
    after = (path,) if function is record_video else ()
    with pytest.raises(TypeError, match="make_environment is a ScriptedEnv, expected a function that makes an env"):
        function(*before, ScriptedEnv(), *after)
    with pytest.raises(TypeError, match=r"make_environment made a list, expected a gymnasium\.Env"):
        function(*before, list, *after)


def make_filmed() -> Any:
    return gymnasium.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=4)


@pytest.mark.filterwarnings("default")  # of the libraries that write videos
def test_videos(tmp_path: Path) -> None:
    policy, folder = GymPolicy(make_filmed()), tmp_path / "videos"
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    for _ in range(2):  # the second time they are replaced
        files = record_video(policy, make_filmed, folder, 2, seed=3)
        assert files == [folder / "seed-3.mp4", folder / "seed-4.mp4"] == sorted(folder.iterdir())
        assert all(b"ftyp" in file.read_bytes()[:16] for file in files)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    save_rollouts(tmp_path / "rollouts", policy, make_filmed, 1)
    shutil.rmtree(folder)
    assert replay(tmp_path / "rollouts", make_filmed, video_folder=folder) == []
    assert [file.name for file in folder.iterdir()] == ["seed-10000.mp4"]


def test_what_cannot_be_filmed(tmp_path: Path) -> None:
    policy = GymPolicy(MAKERS["discrete"]())
    with pytest.raises(ValueError, match=r"with render_mode None, expected 'rgb_array', which can be filmed: pass lam"):
        record_video(policy, MAKERS["discrete"], tmp_path / "videos")
    assert list(tmp_path.iterdir()) == []
