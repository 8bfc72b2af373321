"""The stored tic-tac-toe agent cannot be beaten, and the script trains, plays and explains itself."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from safetensors import safe_open

from environments import TicTacToe
from environments.tic_tac_toe_analysis import legal_moves, minimax_agent
from grpo_adapters.gym import GymActorCritic
from tictactoe import (
    BOARDS,
    SEATS,
    TOLERANCE,
    WEIGHTS,
    Evaluate,
    FrozenCopy,
    Play,
    RandomOpening,
    Train,
    load_agent,
    measure,
    play,
    reachable_boards,
    row_of,
)

SCRIPT = Path(__file__).parent.parent.parent / "examples" / "tictactoe.py"


def run(*options: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(SCRIPT), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def command_in(weights: Path) -> str:
    with safe_open(weights, "pt") as file:
        return str(file.metadata()["command"])


@pytest.mark.parametrize("seat", SEATS)
def test_the_stored_agent_loses_no_line_and_beats_a_random_opponent_as_minimax_does(seat: str) -> None:
    own, best = measure(load_agent(WEIGHTS))[seat], measure(minimax_agent)[seat]
    assert own.lines.losses == 0
    assert own.random.loss == 0
    assert own.random.win >= best.random.win - TOLERANCE


def test_the_stored_weights_are_small_and_tell_how_they_were_made() -> None:
    assert WEIGHTS.stat().st_size < 100_000
    command = command_in(WEIGHTS)
    assert command == "python examples/tictactoe.py train --save examples/weights/tictactoe.safetensors"
    assert f"    {command}\n" in SCRIPT.read_text()


def test_evaluate_prints_the_agent_beside_minimax(tmp_path: Path) -> None:
    output = run("evaluate", folder=tmp_path)
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line[:1] == "│"]
    assert [row[:2] for row in rows] == [[name, seat] for name in ("agent", "minimax") for seat in SEATS]
    assert [row[-1] for row in rows[2:]] == ["99.48%", "91.64%"]
    assert all(row[5] == "0" for row in rows)
    assert "The agent cannot be beaten." in output
    assert "it is within 0.02 of minimax." in output


def test_a_short_training_makes_weights_that_load_and_a_figure(tmp_path: Path) -> None:
    output = run("train", "--steps", "3000", "--seed", "1", folder=tmp_path)
    assert "The agent can be beaten." in output
    weights = tmp_path / "outputs" / "tictactoe.safetensors"
    assert command_in(weights).endswith("tictactoe.py train --steps 3000 --seed 1")
    assert (tmp_path / "outputs" / "tictactoe.png").stat().st_size > 10_000
    assert run("evaluate", "--weights", str(weights), folder=tmp_path).splitlines()[:-2] == [
        line for line in output.splitlines() if re.match(r" +Every|[┏┡└│┃]", line)
    ]


def test_every_board_of_a_game_has_a_row() -> None:
    boards = reachable_boards()
    assert boards.shape == (4520, 9)
    assert [row_of(board) for board in boards] == list(range(4520))
    game = TicTacToe()
    for seed in range(50):
        _, info = game.reset(seed=seed)
        over = False
        while not over:
            assert (BOARDS[row_of(game.board)] == game.board).all()
            _, _, over, _, info = game.step(game.np_random.choice(np.flatnonzero(info["action_mask"])))


@pytest.mark.parametrize("random_moves", [0.0, 0.4, 1.0])
def test_a_frozen_copy_draws_from_the_policy_and_a_share_uniformly(random_moves: float) -> None:
    policy = GymActorCritic(TicTacToe(), hidden_sizes=(8,), seed=1)
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.mul_(60)
    copy, generator = FrozenCopy(policy, random_moves), np.random.default_rng(0)
    board = np.array([1, -1, 0, 0, 1, 0, 0, 0, -1], dtype=np.int8)
    cells, count = legal_moves(board), 20_000
    drawn = np.bincount([copy(board, generator) for _ in range(count)], minlength=9) / count
    features = torch.from_numpy(np.concatenate((board == 1, board == -1))).float()
    chances = policy.actor(features[None])[0, cells].softmax(0).detach().numpy()
    assert chances.max() > 2 * chances.min()
    expected = (1 - random_moves) * chances + random_moves / len(cells)
    assert drawn.sum() == pytest.approx(drawn[cells].sum())
    assert drawn[cells] == pytest.approx(expected, abs=0.015)


def test_openings_are_random_and_leave_something_to_play() -> None:
    game = RandomOpening(TicTacToe())
    numbers = set()
    for seed in range(300):
        _, info = game.reset(seed=seed)
        board = game.env.unwrapped.board  # type: ignore[attr-defined]
        numbers.add(int((board == 1).sum()))
        assert (info["action_mask"] == (board == 0)).all()
        game.step(np.int64(legal_moves(board)[0]))  # raises if the game is over
    assert numbers == {0, 1, 2}


@pytest.mark.parametrize("starts", ["me", "agent", "random"])
def test_a_game_is_played_to_its_end_whatever_is_typed(
    starts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ["", "x", "0", "10", "-1", "1.5", "five", *(f" {number} " for number in range(1, 10))]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(answers)))
    play(Play(starts=starts))  # type: ignore[arg-type]
    output = capsys.readouterr().out
    assert output.count("Please give the number of an empty cell.") >= 7
    assert output.rstrip().endswith(("A draw.", "The agent wins."))
    assert starts == "random" or ("You play X and start." in output) == (starts == "me")


@pytest.mark.parametrize("answers", ["", "5\n"])
def test_the_end_of_input_ends_the_game_politely(
    answers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answers))
    play(Play(starts="me"))
    assert capsys.readouterr().out.endswith("The game is left unfinished. Goodbye!\n")


@pytest.mark.parametrize("options", [Train, Play, Evaluate])
def test_help_explains_every_option(options: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(Train | Play | Evaluate, args=[options.__name__.lower(), "--help"])
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    explained = re.findall(r'^    (\w+): .+\n    """(.+)"""$', inspect.getsource(options), re.MULTILINE)
    names = [f"--{name.replace('_', '-')}" for name, _ in explained]
    assert {*names, "--help"} == set(re.findall(r"--[a-z][a-z-]*", told))
    assert all(explanation in told for _, explanation in explained)
