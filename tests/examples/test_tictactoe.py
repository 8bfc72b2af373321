"""The stored tic-tac-toe agent cannot be beaten, and the script trains and plays."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from safetensors import safe_open

import tictactoe
from environments import TicTacToe
from environments.tic_tac_toe_analysis import legal_moves, measure, minimax_agent
from environments.tic_tac_toe_players import BOARDS, FrozenCopy, RandomOpening, reachable_boards, row_of
from grpo import Callback, PPOConfig, PPOTrainer, Run, Until
from grpo_adapters.gym import EnvironmentReward, FragmentSampler, GymActorCritic
from tictactoe import WEIGHTS, load_agent, play

SEATS = ("first", "second")
TOLERANCE = 0.02  # between the agent's and minimax's probability of beating a random opponent
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
    lines = run("evaluate", folder=tmp_path).splitlines()
    assert [line.split()[:3] for line in lines] == [
        [name, "moving", seat] for name in ("agent", "minimax") for seat in SEATS
    ]
    assert all(re.search(r"lost +0;", line) for line in lines)
    assert [re.findall(r"[\d.]+%", line) for line in lines[2:]] == [["99.48%"], ["91.64%"]]


def test_a_short_training_makes_weights_that_load_and_a_run(tmp_path: Path) -> None:
    output = run("train", "--steps", "3000", "--seed", "1", folder=tmp_path)
    assert re.search(r"lost +[1-9]", output)
    weights = tmp_path / "outputs" / "tictactoe.safetensors"
    assert command_in(weights).endswith("tictactoe.py train --steps 3000 --seed 1")
    evaluations = (tmp_path / "outputs" / "tictactoe-1" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(evaluations[0])["evaluation/losing_lines_first"] > 0
    assert run("evaluate", "--weights", str(weights), folder=tmp_path).splitlines()[:2] == output.splitlines()[:2]


def test_each_environment_is_given_a_copy_of_the_policy_in_turn() -> None:
    envs = SyncVectorEnv([TicTacToe] * tictactoe.NUM_ENVS)
    policy = GymActorCritic(TicTacToe(), hidden_sizes=(8,))
    sampler = FragmentSampler(envs, 2)
    trainer = PPOTrainer(PPOConfig(), policy, EnvironmentReward(), sampler=sampler)
    noticed: list[list[FrozenCopy]] = []

    class Notices(Callback):
        def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
            noticed.append([env.opponent for env in envs.envs])  # type: ignore[attr-defined]

    Run(trainer, sampler.states, callbacks=[tictactoe.SelfPlay(), Notices()])(Until(steps=3))
    first = noticed[0][0]
    assert all(isinstance(opponent, FrozenCopy) for opponents in noticed for opponent in opponents)
    assert [sum(opponent is not first for opponent in opponents) for opponents in noticed] == [1, 2, 3]
    assert [opponent is first for opponent in noticed[-1][:6]] == [True, True, False, False, False, True]


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
    play(starts)  # type: ignore[arg-type]
    output = capsys.readouterr().out
    assert output.count("Please give the number of an empty cell.") >= 7
    assert output.rstrip().endswith(("A draw.", "The agent wins."))
    assert starts == "random" or ("You play X and start." in output) == (starts == "me")


@pytest.mark.parametrize("answers", ["", "5\n"])
def test_the_end_of_input_ends_the_game_politely(
    answers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answers))
    play("me")
    assert capsys.readouterr().out.endswith("The game is left unfinished. Goodbye!\n")
