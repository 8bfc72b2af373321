"""The examples run, learn what they say, and take the options they tell of."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import tyro

import bandit_algorithms
import cartpole_grpo
import cartpole_reinforce
import dpo_synthetic
import dynamic_bandit
import masked_cartpole
import toy_environments

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LONGEST_SCRIPT = 120


def run(script: str, *options: str, folder: Path | None = None) -> str:
    command = [sys.executable, str(EXAMPLES / script), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.stem)
def test_scripts_are_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= LONGEST_SCRIPT


def test_custom_policy_is_short_and_learns_nearly_the_best_schedules() -> None:
    """The script itself checks its schedules against Smith's rule."""
    assert len((EXAMPLES / "custom_policy.py").read_text().splitlines()) < 80
    assert "more than the best ones" in run("custom_policy.py")


def test_bandit_algorithms_all_end_near_the_best_arm() -> None:
    told, names, *rows = run("bandit_algorithms.py", "--seeds", "3").splitlines()
    assert names.split() == ["steps", "REINFORCE", "PPO", "(clip)", "GRPO", "DPO"]
    best = float(told.split()[-1])
    first, last = ([float(cell) for cell in row.split()[1:]] for row in (rows[0], rows[-1]))
    assert len(last) == 4
    assert all(late > early for late, early in zip(last, first, strict=True))
    assert all(reward > 0.9 * best for reward in last)


def dynamic_bandit_in_processes(options: list[str], folder: Path) -> str:
    return run("dynamic_bandit.py", *options, folder=folder)


def dynamic_bandit_in_a_thread(options: list[str], folder: Path) -> str:
    """What it prints, without the seconds that its processes take to import PyTorch."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setattr(dynamic_bandit, "ProcessPoolExecutor", lambda **settings: ThreadPoolExecutor(1))
        plt.switch_backend("Agg")
        dynamic_bandit.main(tyro.cli(dynamic_bandit.Options, args=options))
        plt.close("all")
    return printed.getvalue()


@pytest.mark.parametrize(
    ("dynamics", "run_with"),
    [
        ("drift", dynamic_bandit_in_processes),
        ("switches", dynamic_bandit_in_a_thread),
        ("seasons", dynamic_bandit_in_a_thread),
    ],
)
def test_dynamic_bandit_makes_a_table_and_a_figure(
    dynamics: str, run_with: Callable[[list[str], Path], str], tmp_path: Path
) -> None:
    options = ["--dynamics", dynamics, "--num-pulls", "400", "--seeds", "2"]
    output = run_with(options, tmp_path)
    for name in ("GRPO", "UCB1", "Thompson sampling", "discounted UCB", "sliding-window UCB", "ε-greedy"):
        assert name in output
    assert (tmp_path / "outputs" / f"dynamic_bandit_{dynamics}.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "example",
    [
        bandit_algorithms,
        cartpole_grpo,
        cartpole_reinforce,
        dpo_synthetic,
        dynamic_bandit,
        masked_cartpole,
        toy_environments,
    ],
)
def test_help_explains_every_option(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(example.Options, description=example.__doc__, args=["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    explained = re.findall(r'^    (\w+): (.+) = .+\n    """(.+)"""$', inspect.getsource(example), re.MULTILINE)
    names = [(name.replace("_", "-"), kind) for name, kind, _ in explained]
    opposites = {f"--no-{name}" for name, kind in names if kind == "bool"}
    assert {f"--{name}" for name, _ in names} | opposites | {"--help"} == set(re.findall(r"--[a-z][a-z-]*", told))
    assert all(explanation in told for *_, explanation in explained)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:  # type: ignore[no-untyped-call]
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
