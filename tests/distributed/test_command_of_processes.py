"""The command ``anygrpo``, in processes that ``torchrun`` starts."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from processes import on_ranks

from grpo import World
from grpo_adapters.cli import main

TRAINING = """
import os
import signal
import torch
from grpo import Callback, GRPOConfig, GRPOTrainer
from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit


class Dies(Callback):
    def after_step(self, run, metrics):
        if run.world.rank == 1 and run.num_steps == 3 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            os.kill(os.getpid(), signal.SIGKILL)


def make(world, seed):
    torch.set_num_threads(1)
    policy = SoftmaxPolicy(3, torch.Generator().manual_seed(seed))
    config = GRPOConfig(group_size=4, learning_rate=0.1, seed=seed)
    trainer = GRPOTrainer(config, policy, StationaryBandit([0.1, 0.5, 0.9], seed=1), world=world)
    return trainer, ["a", "b", "c"], [Dies()]


def alone(seed):
    return make(None, seed)
"""


def launched(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command = [*launcher, "-m", "grpo_adapters.cli", "train", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command_trains_in_several_processes_is_started_again_and_goes_on_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "training.py").write_text(TRAINING)
    words = ("training.py:make", "--until-steps", "4", "--checkpoint-every", "2", "--trackers", "jsonl")
    done = launched(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended after step 4") == 1
    assert done.stdout.count("training.py:make, in run") == 2
    assert done.stdout.count("goes on from step 2") == 1
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000002", "step-000000004"]
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="with 1 ranks, and was saved by 2"):
        assert main(["resume", "run", "--until-steps", "6"]) == 0
    assert "goes on from step 4" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {line["num_samples"] for line in lines} == {12.0}


def in_this_world(world: World, folder: Path, words: list[str]) -> tuple[int, str, str]:
    """The exit status of the command, and what it prints."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as error,
    ):
        patch.setattr(World, "from_environment", lambda: world)
        patch.chdir(folder)
        status = main(words)
        world.agree()
    return status, out.getvalue(), " ".join(error.getvalue().split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["training.py:alone", "--until-steps", "4"],
            "makes a trainer of 1 process, but there are 2: let the function",
        ),
        (["training.py:none", "--until-steps", "4"], "training.py has no 'none'"),
        (["training.py:make", "--until-steps", "4", "--folder", "begun"], "begun holds a run already"),
        (["gym", "CartPole-v1", "--until-steps", "4", "--num-envs", "1"], "num_envs is 1, expected at least one for"),
    ],
)
def test_what_is_wrong_is_told_once(tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "training.py").write_text(TRAINING)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    first, second = on_ranks(2, in_this_world, tmp_path, ["train", *words])
    assert first[:2] == (2, "")
    assert told in first[2]
    assert second == (2, "", "")
