"""The examples run, learn what they say, and take the options they tell of."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import tyro
from nbclient import NotebookClient

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
    explained = re.findall(r'^    (\w+): .+\n    """(.+)"""$', inspect.getsource(example), re.MULTILINE)
    names = [f"--{name.replace('_', '-')}" for name, _ in explained]
    assert {*names, "--help"} == set(re.findall(r"--[a-z][a-z-]*", told))
    assert all(explanation in told for _, explanation in explained)


def executed(name: str, folder: Path, smaller: dict[str, str]) -> tuple[str, int]:
    """What a notebook prints, and how many figures it draws, some of its sizes made smaller.

    The site is built from the notebooks as they are.
    """
    notebook = nbformat.read(EXAMPLES / name, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for size, other in smaller.items():
        [cell] = [cell for cell in code if size in cell.source]
        cell.source = cell.source.replace(size, other)
    start = time.monotonic()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    print(f"{name} took {time.monotonic() - start:.0f} s")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    return "".join(output.get("text", "") for output in outputs), len(figures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:  # type: ignore[no-untyped-call]
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_notebook_of_the_bandit(tmp_path: Path) -> None:
    """With fewer runs the intervals are wider: that they do not overlap is harder to reach."""
    smaller = {
        "NUM_RUNS = 20_000, 10, 8, 20": "NUM_RUNS = 20_000, 10, 8, 6",
        "switching = torch.stack": "NUM_PULLS = 4_000\nswitching = torch.stack",
        "for seed in range(6)": "for seed in range(3)",
    }
    text, num_figures = executed("grpo_dynamic_bandit_demo.ipynb", tmp_path, smaller)
    assert num_figures >= 4
    regrets = first_comparison(text)
    assert regrets["GRPO"][1] < min(regrets["UCB1"][0], regrets["ε-greedy (ε = 0.1)"][0])


def test_the_notebook_of_the_language_model(tmp_path: Path) -> None:
    text, num_figures = executed("grpo_language_model.ipynb", tmp_path, {"NUM_STEPS = 100": "NUM_STEPS = 40"})
    assert num_figures == 1
    accuracies = [float(percentage) for percentage in re.findall(r"held out ([\d.]+)%", text)]
    assert len(accuracies) == 2
    assert accuracies[-1] > 75


def first_comparison(text: str) -> dict[str, tuple[float, float]]:
    """95% intervals of the first comparison that the notebook prints."""
    intervals: dict[str, tuple[float, float]] = {}
    for name, low, high in re.findall(r"^(.+?) +[\d,]+ +95% interval \[ *([\d,]+), +([\d,]+)\]$", text, re.MULTILINE):
        intervals.setdefault(name, (float(low.replace(",", "")), float(high.replace(",", ""))))
    return intervals
