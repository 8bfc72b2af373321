"""The examples run, learn what they say, and take the options they tell of."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run(script: str, *options: str, folder: Path | None = None) -> str:
    command = [sys.executable, str(EXAMPLES / script), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_custom_policy_is_short_and_learns_nearly_the_best_schedules() -> None:
    """The script itself checks its schedules against Smith's rule."""
    assert len((EXAMPLES / "custom_policy.py").read_text().splitlines()) < 80
    assert "more than the best ones" in run("custom_policy.py")


def test_bandit_algorithms_all_end_near_the_best_arm() -> None:
    output = run("bandit_algorithms.py", "--seeds", "5")
    assert all(name in output for name in ("REINFORCE", "PPO", "GRPO", "DPO"))
    rows = [line.strip("│ ").split("│") for line in output.splitlines() if line.startswith("│")]
    first, last = ([float(cell) for cell in row[1:]] for row in (rows[0], rows[-1]))
    *rewards, best = last
    assert all(late > early for late, early in zip(rewards, first[:-1], strict=True))
    assert all(reward > 0.9 * best for reward in rewards)


@pytest.mark.parametrize("dynamics", ["drift", "switches", "seasons"])
def test_dynamic_bandit_makes_a_table_and_a_figure(dynamics: str, tmp_path: Path) -> None:
    options = ["--dynamics", dynamics, "--num-pulls", "400", "--seeds", "2", "--num-arms", "4"]
    output = run("dynamic_bandit.py", *options, folder=tmp_path)
    for name in ("GRPO", "UCB1", "Thompson sampling", "discounted UCB", "sliding-window UCB", "ε-greedy"):
        assert name in output
    assert (tmp_path / "outputs" / f"dynamic_bandit_{dynamics}.png").stat().st_size > 10_000


@pytest.mark.parametrize("script", ["bandit_algorithms.py", "dpo_synthetic.py", "dynamic_bandit.py"])
def test_help_explains_every_option(script: str) -> None:
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", run(script, "--help")).split())
    source = (EXAMPLES / script).read_text()
    explained = re.findall(r'^    (\w+): .+\n    """(.+)"""$', source, re.MULTILINE)
    assert len(explained) == len(re.findall(r"--(?!help)[a-z]", told))
    for name, explanation in explained:
        assert f"--{name.replace('_', '-')}" in told
        assert explanation in told


def executed(name: str, folder: Path) -> tuple[str, int]:
    """What a notebook prints, and how many figures it draws."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)  # type: ignore[no-untyped-call]
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
    text, num_figures = executed("grpo_dynamic_bandit_demo.ipynb", tmp_path)
    assert num_figures >= 4
    regrets = first_comparison(text)
    assert regrets["GRPO"][1] < min(regrets["UCB1"][0], regrets["ε-greedy (ε = 0.1)"][0])


def test_the_notebook_of_the_language_model(tmp_path: Path) -> None:
    text, num_figures = executed("grpo_language_model.ipynb", tmp_path)
    assert num_figures == 1
    accuracies = [float(percentage) for percentage in re.findall(r"held out ([\d.]+)%", text)]
    assert len(accuracies) == 5
    assert accuracies[-1] > 75


def first_comparison(text: str) -> dict[str, tuple[float, float]]:
    """95% intervals of the first comparison that the notebook prints."""
    intervals: dict[str, tuple[float, float]] = {}
    for name, low, high in re.findall(r"^(.+?) +[\d,]+ +95% interval \[ *([\d,]+), +([\d,]+)\]$", text, re.MULTILINE):
        intervals.setdefault(name, (float(low.replace(",", "")), float(high.replace(",", ""))))
    return intervals
