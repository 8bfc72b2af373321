"""The control examples run, learn the easy tasks, and play with the weights that lie beside them."""

from __future__ import annotations

import inspect
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tyro

import cartpole_grpo
import fruit_from_pixels
import lunarlander_ppo
import masked_cartpole
import tictactoe
import toy_environments

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def run(script: str, *options: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_plain_ppo_of_thirty_lines_reaches_the_bar(tmp_path: Path) -> None:
    """Here with a fifth of its updates, at schedules that are as much steeper."""
    source = (EXAMPLES / "ppo.py").read_text()
    assert len(source.splitlines()) <= 30
    shorter = tmp_path / "ppo.py"
    shorter.write_text(source.replace("NUM_UPDATES = 390", "NUM_UPDATES = 80"))
    output = run(str(shorter), folder=tmp_path)
    [mean] = re.findall(r"steps: ([\d.]+) ±", output)
    assert float(mean) > 475


def toy_environments_here(options: list[str], folder: Path) -> str:
    """What it prints, without the seconds that a process takes to import PyTorch."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
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
    assert f"the best return is {best:g}, reached was {best:g}" in output
    evaluations = lines_of(tmp_path / "outputs" / "toy" / f"{environment}-{algorithm}-0" / "evaluations.jsonl")
    assert evaluations[0]["evaluation/mean_return"] < best
    assert evaluations[-1]["evaluation/mean_return"] == best


def lines_of(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def reinforce_as_a_script(folder: Path) -> str:
    return run("cartpole_reinforce.py", "--episodes", "20", "--seeds", "1", folder=folder)


def here(main: Callable[..., None], module: Any, folder: Path, *arguments: Any, **options: Any) -> str:
    """What it prints, without the seconds that its processes take to import PyTorch."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setattr(module, "ProcessPoolExecutor", lambda **settings: ThreadPoolExecutor(1))
        main(*arguments, **options)
    return printed.getvalue()


def cartpole(folder: Path) -> str:
    options = cartpole_grpo.Options(steps=500, ppo_steps=250, seeds=1)
    return here(cartpole_grpo.main, cartpole_grpo, folder, options)


def masked(folder: Path) -> str:
    options = masked_cartpole.Options(memories=("gru", "none"), steps=500, seeds=(0,))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        masked_cartpole.main(options)
    return printed.getvalue()


def lunarlander(folder: Path, algorithm: str) -> str:
    return here(lunarlander_ppo.train, lunarlander_ppo, folder, algorithm=algorithm, steps=1000, seeds=1)


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
@pytest.mark.parametrize(
    ("train", "folders"),
    [
        (reinforce_as_a_script, ["cartpole/REINFORCE-0"]),
        (cartpole, ["cartpole/GRPO-0", "cartpole/PPO-0"]),
        (partial(lunarlander, algorithm="ppo"), ["lunarlander/ppo-0"]),
        (partial(lunarlander, algorithm="grpo"), ["lunarlander/grpo-0"]),
    ],
    ids=["reinforce", "cartpole", "lunarlander-ppo", "lunarlander-grpo"],
)
def test_short_trainings_tell_what_was_reached_and_write_a_run(
    train: Callable[[Path], str], folders: list[str], tmp_path: Path
) -> None:
    output = train(tmp_path)
    assert len(re.findall(r"seed 0, [\d,]+ steps: .* over 100 episodes", output)) == len(folders)
    for folder in folders:
        assert "evaluation/mean_return" in lines_of(tmp_path / "outputs" / folder / "evaluations.jsonl")[0]
        assert sum(line["num_decisions"] for line in lines_of(tmp_path / "outputs" / folder / "metrics.jsonl")) >= 250


def test_the_stored_lander_lands_and_is_filmed(tmp_path: Path) -> None:
    output = run("lunarlander_ppo.py", "evaluate", "--episodes", "20", folder=tmp_path)
    [mean] = re.findall(r"LunarLander-v3: (-?[\d.]+) ±", output)
    assert float(mean) > 200
    run("lunarlander_ppo.py", "evaluate", "--episodes", "1", "--video", "film", folder=tmp_path)
    [film] = (tmp_path / "film").glob("*.mp4")
    assert film.stat().st_size > 10_000


def returns_of_fruit(choose: Callable[[fruit_from_pixels.Fruit], int]) -> list[float]:
    returns = []
    for seed in range(20):
        environment = fruit_from_pixels.Fruit()
        environment.reset(seed=seed)
        returns.append(0.0)
        is_over = False
        while not is_over:
            _, reward, is_over, _, _ = environment.step(choose(environment))
            returns[-1] += reward
    return returns


def test_fruit_can_all_be_caught_but_not_by_chance() -> None:
    def follow_or_flee(environment: fruit_from_pixels.Fruit) -> int:
        goal = environment.column if environment.is_fruit else 36 * (environment.column < 18)
        return 1 + (goal > environment.bar + 1) - (goal < environment.bar - 1)

    assert returns_of_fruit(follow_or_flee) == [5.0] * 20
    assert max(returns_of_fruit(lambda environment: 1)) < 5


def test_fruit_from_pixels_learns_a_step_and_tells_what_it_reached(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)
    fruit_from_pixels.main(seeds=1, steps=1000, episodes=2)
    assert re.search(r"untrained policy: .*\nseed 0, 1,000 steps in \d+ s: .* over 2 episodes", capsys.readouterr().out)


def test_a_memory_and_none(tmp_path: Path) -> None:
    output = masked(tmp_path)
    assert re.findall(r"(\w+), seed 0, 500 steps: .* over 100 episodes", output) == ["gru", "none"]
    for name in ("gru", "none"):
        assert len(lines_of(tmp_path / "outputs" / "masked-cartpole" / f"{name}-0" / "metrics.jsonl")) == 2


@pytest.mark.parametrize("command", [lunarlander_ppo.play, tictactoe.evaluate, tictactoe.play])
def test_missing_weights(command: Callable[..., None]) -> None:
    expected = "there are no weights at nowhere.safetensors: make them with train --save nowhere.safetensors"
    with pytest.raises(SystemExit, match=f"^{re.escape(expected)}$"):
        command(weights=Path("nowhere.safetensors"))


@pytest.mark.parametrize(
    "command", [lunarlander_ppo.train, lunarlander_ppo.play, tictactoe.train, tictactoe.play, tictactoe.evaluate]
)
def test_help_explains_every_option(command: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(command, args=["--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    explained = dict(re.findall(r"^    (\w+): (.+)$", inspect.getdoc(command) or "", re.MULTILINE))
    assert explained.keys() == inspect.signature(command).parameters.keys()
    assert all(f"--{name}" in told and explanation in told for name, explanation in explained.items())


def test_stored_weights_are_small() -> None:
    weights = list((EXAMPLES / "weights").glob("*.safetensors"))
    assert len(weights) >= 2
    assert all(path.stat().st_size < 100_000 for path in weights)
