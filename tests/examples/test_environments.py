"""The environments of the examples: they do as gymnasium asks, follow their rules, and their exact results hold."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from environments import GridWorld, RandomWalk, TicTacToe, random_opponent
from environments.grid_world import GOAL, LAYOUT, START, optimal_return
from environments.tic_tac_toe_analysis import (
    Agent,
    Outcomes,
    Probabilities,
    enumerate_lines,
    legal_moves,
    minimax_agent,
    minimax_moves,
    minimax_value,
    outcome_against_random,
    winner,
)

IDS = ["anygrpo/RandomWalk-v0", "anygrpo/GridWorld-v0", "anygrpo/TicTacToe-v0"]


def first_legal(board: NDArray[np.int8]) -> int:
    return legal_moves(board)[0]


def top_row_or_nothing(board: NDArray[np.int8]) -> int:
    """The first empty cell of the top row, or an illegal move if there is none."""
    return next((cell for cell in range(3) if board[cell] == 0), 0)


def plays(*cells: int) -> Callable[[NDArray[np.int8], np.random.Generator], int]:
    """An opponent who makes the given moves."""
    remaining = iter(cells)
    return lambda board, generator: next(remaining)


def play(env: TicTacToe, agent: Agent, **reset: Any) -> float:
    """The reward of one game."""
    env.reset(**reset)
    reward, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, _, _ = env.step(agent(env.board))
    return reward


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("seed", range(5))
def test_gymnasium_finds_nothing_to_complain_about(name: str, seed: int) -> None:
    env = gymnasium.make(name).unwrapped
    env.action_space.seed(seed)
    check_env(env)


@pytest.mark.parametrize("name", IDS)
def test_the_same_seed_gives_the_same_episodes(name: str) -> None:
    def episodes(seed: int) -> list[list[Any]]:
        env = gymnasium.make(name)
        env.action_space.seed(seed)
        steps = [[np.asarray(env.reset(seed=seed)[0]).tolist()]]
        for _ in range(50):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            steps.append([np.asarray(observation).tolist(), reward])
            if terminated or truncated:
                steps.append([np.asarray(env.reset()[0]).tolist()])
        return steps

    assert episodes(3) == episodes(3)
    assert episodes(3) != episodes(4)


@pytest.mark.parametrize(("env", "action"), [(RandomWalk(), 2), (GridWorld(), 4), (TicTacToe(), 9), (TicTacToe(), -1)])
def test_actions_that_are_none(env: gymnasium.Env[Any, Any], action: int) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"{type(env).__name__} got action {action}, expected"):
        env.step(action)


@pytest.mark.parametrize(("action", "positions", "end"), [(0, [2, 1, 0], -1.0), (1, [4, 5, 6], 1.0)])
def test_random_walk_from_the_middle_to_each_end(action: int, positions: list[int], end: float) -> None:
    env = RandomWalk()
    assert env.reset()[0] == 3
    steps = [env.step(action) for _ in range(3)]
    assert [step[0] for step in steps] == positions
    assert [step[1] for step in steps] == [0.0, 0.0, end]
    assert [step[2] for step in steps] == [False, False, True]
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(action)
    assert env.reset()[0] == 3


def test_random_walk_of_another_length() -> None:
    env = RandomWalk(num_positions=3, render_mode="ansi")
    assert env.reset()[0] == 1
    assert env.render() == "-x+"
    assert env.step(1)[:4] == (np.int64(2), 1.0, True, False)
    assert env.render() == "-.x"
    with pytest.raises(ValueError, match="num_positions=4, expected an odd number"):
        RandomWalk(num_positions=4)


@pytest.mark.parametrize(("name", "actions"), [(IDS[0], (0, 1)), (IDS[1], (0, 0))])
def test_episodes_without_an_end_are_cut_after_100_steps(name: str, actions: tuple[int, int]) -> None:
    env = gymnasium.make(name)
    env.reset()
    endings = [env.step(actions[step % 2])[2:4] for step in range(100)]
    assert endings == [(False, False)] * 99 + [(False, True)]


def test_grid_world_stays_where_a_wall_or_an_obstacle_is() -> None:
    env = GridWorld(render_mode="ansi")
    assert env.reset()[0] == START == 0
    up, right, down, left = range(4)
    cells = [env.step(action)[0] for action in (up, left, right, down, right, right, down, left)]
    assert cells == [0, 0, 1, 1, 2, 2, 7, 7]
    assert env.render() == "\n".join(("S..#.", ".#x..", ".##.#", "...#.", ".#..G"))


def test_grid_world_is_crossed_in_eight_steps_and_no_fewer() -> None:
    """The corners are four rows and four columns apart, so that a path of eight steps is a shortest one."""
    env = GridWorld()
    env.reset()
    steps = [env.step(action) for action in (2, 2, 2, 1, 1, 2, 1, 1)]
    assert [step[0] for step in steps] == [5, 10, 15, 16, 17, 22, 23, 24]
    assert [step[1] for step in steps] == [-1.0] * 7 + [10.0]
    assert [step[2] for step in steps] == [False] * 7 + [True]
    assert env.cell == GOAL
    assert sum(step[1] for step in steps) == optimal_return() == 3.0
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(0)


def test_the_optimal_return_follows_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walls from the left and from the right: right across, left across and right again, three times four and down."""
    monkeypatch.setattr("environments.grid_world.LAYOUT", ("S....", "####.", ".....", ".####", "....G"))
    assert optimal_return() == 10.0 - (3 * 4 + 4 - 1)
    assert {len(row) for row in LAYOUT} == {len(LAYOUT)}


def test_tic_tac_toe_is_won() -> None:
    env = TicTacToe(plays(3, 4), render_mode="ansi")
    observation, info = env.reset(options={"agent_starts": True})
    assert observation.tolist() == [0.0] * 18
    assert info["action_mask"].tolist() == [1] * 9
    observation, reward, terminated, truncated, info = env.step(0)
    assert observation.nonzero()[0].tolist() == [0, 9 + 3]
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["action_mask"].tolist() == [0, 1, 1, 0, 1, 1, 1, 1, 1]
    assert info["action_mask"].dtype == np.int8
    assert env.render() == " X | 2 | 3\n---+---+---\n O | 5 | 6\n---+---+---\n 7 | 8 | 9"
    env.step(1)
    observation, reward, terminated, truncated, info = env.step(2)
    assert observation.nonzero()[0].tolist() == [0, 1, 2, 9 + 3, 9 + 4]
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["action_mask"].tolist() == [1] * 9
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(8)


def test_tic_tac_toe_is_lost() -> None:
    env = TicTacToe(plays(0, 4, 8), render_mode="ansi")
    observation, info = env.reset(options={"agent_starts": False})
    assert observation.nonzero()[0].tolist() == [9]
    assert info["action_mask"].tolist() == [0] + [1] * 8
    assert env.step(1)[1:4] == (0.0, False, False)
    assert env.step(2)[1:4] == (-1.0, True, False)
    assert env.render() == " X | O | O\n---+---+---\n 4 | X | 6\n---+---+---\n 7 | 8 | X"


@pytest.mark.parametrize(
    ("agent_starts", "agent", "opponent"),
    [(True, (0, 1, 5, 6, 8), (4, 2, 3, 7)), (False, (4, 2, 3, 7), (0, 1, 5, 6, 8))],
)
def test_tic_tac_toe_is_drawn(agent_starts: bool, agent: tuple[int, ...], opponent: tuple[int, ...]) -> None:
    """X X O / O O X / X O X."""
    env = TicTacToe(plays(*opponent))
    env.reset(options={"agent_starts": agent_starts})
    steps = [env.step(cell) for cell in agent]
    assert [step[1] for step in steps] == [0.0] * len(agent)
    assert [step[2] for step in steps] == [False] * (len(agent) - 1) + [True]


@pytest.mark.parametrize("cell", [3, 4])
def test_an_illegal_move_loses_at_once(cell: int) -> None:
    env = TicTacToe(plays(3))
    env.reset(options={"agent_starts": True})
    before = env.step(4)[0]
    after, reward, terminated, truncated, info = env.step(cell)
    assert (reward, terminated, truncated) == (-1.0, True, False)
    assert after.tolist() == before.tolist()
    assert info["action_mask"].tolist() == [1] * 9


def test_the_opponent_sees_its_own_stones_as_the_agent_sees_its_own() -> None:
    seen: list[list[int]] = []

    def opponent(board: NDArray[np.int8], generator: np.random.Generator) -> int:
        assert generator is env.np_random
        seen.append(board.tolist())
        board[:] = 1  # what it does to its board is its own affair
        return (0, 8)[len(seen) - 1]

    env = TicTacToe(opponent)
    env.reset(seed=0, options={"agent_starts": True})
    env.step(4)
    env.step(2)
    assert seen == [[0, 0, 0, 0, -1, 0, 0, 0, 0], [1, 0, -1, 0, -1, 0, 0, 0, 0]]
    assert env.board.tolist() == [-1, 0, 1, 0, 1, 0, 0, 0, -1]


def test_the_opponent_may_be_replaced_but_has_to_follow_the_rules() -> None:
    env = gymnasium.make("anygrpo/TicTacToe-v0", opponent=plays(4)).unwrapped
    assert isinstance(env, TicTacToe)
    env.reset(options={"agent_starts": False})
    assert env.board.tolist() == [0, 0, 0, 0, -1, 0, 0, 0, 0]
    env.opponent = plays(0)
    with pytest.raises(ValueError, match=r"chose cell 0 on \[-1, 0, 0, 0, 1, .*expected one of the empty cells \[1, 2"):
        env.step(0)


def test_who_starts_is_drawn_at_random_or_given() -> None:
    env = TicTacToe()
    env.reset(seed=0)
    starts = []
    for _ in range(400):
        observation, _ = env.reset()
        starts.append(env.agent_starts)
        assert observation.sum() == (0 if env.agent_starts else 1)
    assert 160 < sum(starts) < 240
    for given in (True, False):
        for _ in range(10):
            env.reset(options={"agent_starts": given})
            assert env.agent_starts is given


def test_the_random_opponent_takes_every_empty_cell_equally_often() -> None:
    generator = np.random.default_rng(0)
    board = np.array([1, 0, -1, 0, 0, 1, 0, -1, -1], dtype=np.int8)
    counts = np.bincount([random_opponent(board, generator) for _ in range(4000)], minlength=9)
    assert counts.nonzero()[0].tolist() == [1, 3, 4, 6]
    assert abs(counts[[1, 3, 4, 6]] - 1000).max() < 120


def test_winners() -> None:
    assert winner([0] * 9) == 0
    assert winner([1, 1, 1, -1, -1, 0, 0, 0, 0]) == 1
    assert winner([-1, 1, 1, 0, -1, 0, 1, 0, -1]) == -1
    assert winner(np.array([1, 1, -1, -1, -1, 1, 1, -1, 1], dtype=np.int8)) == 0
    lines = [
        [first, second, third]
        for first in range(9)
        for second in range(first + 1, 9)
        for third in range(second + 1, 9)
        if winner([int(cell in (first, second, third)) for cell in range(9)]) == 1
    ]
    assert lines == [[0, 1, 2], [0, 3, 6], [0, 4, 8], [1, 4, 7], [2, 4, 6], [2, 5, 8], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(
    ("opening", "replies"), [(0, [4]), (1, [0, 2, 4, 7]), (4, [0, 2, 6, 8])], ids=["corner", "edge", "centre"]
)
@pytest.mark.parametrize("player", [1, -1])
def test_the_game_is_a_draw_if_the_second_player_knows_the_replies(
    opening: int, replies: list[int], player: int
) -> None:
    board = np.zeros(9, dtype=np.int8)
    assert minimax_value(board, player) == 0
    assert minimax_moves(board, player) == list(range(9))
    board[opening] = player
    assert minimax_value(board, -player) == 0
    assert minimax_moves(board, -player) == replies
    board[next(cell for cell in range(9) if cell not in (opening, *replies))] = -player
    assert minimax_value(board, player) == 1


def test_minimax_at_the_end_of_a_game() -> None:
    won = [1, 1, 1, -1, -1, 0, 0, 0, 0]
    assert minimax_value(won, 1) == 1
    assert minimax_value(won, -1) == -1
    assert minimax_moves(won, -1) == []
    with pytest.raises(ValueError, match="the game is over"):
        minimax_agent(won)
    assert minimax_agent([1, 1, 0, -1, -1, 0, 0, 0, 0]) == 2


@pytest.mark.parametrize("agent_starts", [True, False])
def test_minimax_never_loses_and_wins_most_games_against_chance(agent_starts: bool) -> None:
    lines = enumerate_lines(minimax_agent, agent_starts)
    assert lines.losses == 0
    assert lines.wins > lines.draws > 0
    expected = Fraction(191, 192) if agent_starts else Fraction(866, 945)
    against_random = outcome_against_random(minimax_agent, agent_starts)
    assert against_random == Probabilities(float(expected), float(1 - expected), 0.0)


@pytest.mark.parametrize("agent_starts", [True, False])
def test_no_optimal_policy_wins_more_often_than_the_minimax_agent(agent_starts: bool) -> None:
    """Other choices among the moves of optimal value do not lose either, and win at most as often."""
    generator = np.random.default_rng(0)
    best = outcome_against_random(minimax_agent, agent_starts)
    for _ in range(20):
        chosen: dict[bytes, int] = {}

        def agent(board: NDArray[np.int8], chosen: dict[bytes, int] = chosen) -> int:
            return chosen.setdefault(board.tobytes(), int(generator.choice(minimax_moves(board, 1))))

        other = outcome_against_random(agent, agent_starts)
        assert other.loss == 0
        assert other.win <= best.win


@pytest.mark.parametrize("agent_starts", [True, False])
def test_minimax_against_itself_draws(agent_starts: bool) -> None:
    env = TicTacToe(lambda board, generator: minimax_agent(board))
    assert play(env, minimax_agent, options={"agent_starts": agent_starts}) == 0.0


def test_lines_of_agents_simple_enough_to_count_them() -> None:
    """Always the first cell: the second time it is illegal. The top row: it is won if both replies leave it alone."""
    assert enumerate_lines(lambda board: 0, True) == Outcomes(0, 0, 8)
    assert enumerate_lines(lambda board: 0, False) == Outcomes(0, 0, 1 + 8 * 7)
    assert enumerate_lines(top_row_or_nothing, True).wins == 6 * 5
    assert outcome_against_random(top_row_or_nothing, True) == Probabilities(5 / 8, 0.0, 3 / 8)


@pytest.mark.parametrize("agent_starts", [True, False])
@pytest.mark.parametrize("agent", [first_legal, top_row_or_nothing])
def test_the_analysis_agrees_with_games_that_are_played(agent: Agent, agent_starts: bool) -> None:
    env = TicTacToe()
    env.reset(seed=7)
    rewards = np.array([play(env, agent, options={"agent_starts": agent_starts}) for _ in range(2000)])
    exact = outcome_against_random(agent, agent_starts)
    assert enumerate_lines(agent, agent_starts).losses > 0
    assert (rewards == 1).mean() == pytest.approx(exact.win, abs=0.045)
    assert (rewards == 0).mean() == pytest.approx(exact.draw, abs=0.045)
    assert (rewards == -1).mean() == pytest.approx(exact.loss, abs=0.045)


def test_the_first_of_two_random_players_wins_58_percent_of_the_games() -> None:
    @cache
    def probability(board: tuple[int, ...], player: int, result: int) -> Fraction:
        moves = legal_moves(board)
        if winner(board) != 0 or not moves:
            return Fraction(winner(board) == result)
        after = [(*board[:move], player, *board[move + 1 :]) for move in moves]
        return sum((probability(board, -player, result) for board in after), Fraction(0)) / len(moves)

    probabilities = [probability((0,) * 9, 1, result) for result in (1, 0, -1)]
    assert probabilities == [Fraction(737, 1260), Fraction(8, 63), Fraction(121, 420)]
