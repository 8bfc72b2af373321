"""The control examples run, learn the easy tasks, and play with the weights that lie beside them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lunarlander_ppo
import pytest
import tyro

import tictactoe
import toy_environments
from learning import Advance, Run

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def run(script: str, *options: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def worst(output: str) -> float:
    """The mean return of the worst seed, as the script sums up."""
    [found] = re.findall(r"worst (-?[\d.]+)", output)
    return float(found)


def toy_environments_here(options: list[str], folder: Path) -> str:
    """What it prints, without the seconds that its processes take to import PyTorch."""

    def run_here(train: Callable[[int, Advance], Run], num_seeds: int, title: str) -> list[Run]:
        return [train(seed, lambda fraction: None) for seed in range(num_seeds)]

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setattr(toy_environments, "run_seeds", run_here)
        toy_environments.main(tyro.cli(toy_environments.Options, args=options))
    return printed.getvalue()


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce", "dpo"])
@pytest.mark.parametrize(("environment", "best", "steps"), [("random-walk", 1.0, 10_000), ("grid", 3.0, 50_000)])
def test_every_algorithm_finds_the_best_return(
    algorithm: str, environment: str, best: float, steps: int, tmp_path: Path
) -> None:
    options = ["--algorithm", algorithm, "--environment", environment, "--seeds", "1", "--steps", str(steps)]
    as_a_script = (algorithm, environment) == ("ppo", "random-walk")
    output = (
        run("toy_environments.py", *options, folder=tmp_path)
        if as_a_script
        else toy_environments_here(options, tmp_path)
    )
    assert worst(output) == best
    assert (tmp_path / "outputs" / f"toy_{environment}_{algorithm}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("script", "options", "figure"),
    [
        ("cartpole_reinforce.py", ["--episodes", "20"], "cartpole_reinforce.png"),
        ("cartpole_grpo.py", ["--steps", "500", "--ppo-steps", "250"], "cartpole_grpo.png"),
        ("lunarlander_ppo.py", ["train", "--steps", "1000"], "lunarlander_ppo.png"),
        ("lunarlander_ppo.py", ["train", "--algorithm", "grpo", "--steps", "1000"], "lunarlander_grpo.png"),
    ],
)
def test_short_trainings_end_in_a_table_and_a_figure(
    script: str, options: list[str], figure: str, tmp_path: Path
) -> None:
    output = run(script, *options, "--seeds", "1", folder=tmp_path)
    assert "mean over seeds" in output
    assert (tmp_path / "outputs" / figure).stat().st_size > 10_000


def test_the_stored_lander_lands_and_is_filmed(tmp_path: Path) -> None:
    output = run("lunarlander_ppo.py", "evaluate", "--episodes", "20", folder=tmp_path)
    [mean] = re.findall(r"LunarLander-v3: (-?[\d.]+) ±", output)
    assert float(mean) > 200
    run("lunarlander_ppo.py", "evaluate", "--episodes", "1", "--video", "film", folder=tmp_path)
    [film] = (tmp_path / "film").glob("*.mp4")
    assert film.stat().st_size > 10_000


@pytest.mark.parametrize("example", [lunarlander_ppo, tictactoe])
def test_missing_weights(example: Any) -> None:
    expected = "there are no weights at nowhere.safetensors: make them with train --save nowhere.safetensors"
    with pytest.raises(SystemExit, match=f"^{re.escape(expected)}$"):
        example.main(example.Evaluate(weights=Path("nowhere.safetensors")))


def test_stored_weights_are_small() -> None:
    weights = list((EXAMPLES / "weights").glob("*.safetensors"))
    assert len(weights) >= 2
    assert all(path.stat().st_size < 100_000 for path in weights)
