"""Tic-tac-toe solved: who has won, what is best, and how an agent fares against every opponent and a random one.

A board is nine stones, row by row: +1 for those of one player, -1 for those of the other, 0 where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

Agent = Callable[[NDArray[np.int8]], int]
"""From a board on which its stones are +1 to the cell of its next one."""

_Cells = tuple[int, ...]

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
EMPTY_BOARD: _Cells = (0,) * 9


@dataclass(frozen=True)
class Outcomes:
    """How often each result occurs among the games that an agent may find itself in.

    Attributes:
        wins: games that the agent wins.
        draws: games that nobody wins.
        losses: games that the agent loses.
    """

    wins: int
    draws: int
    losses: int


@dataclass(frozen=True)
class Probabilities:
    """Of the three results; their sum is 1.

    Attributes:
        win: that the agent wins.
        draw: that nobody wins.
        loss: that the agent loses.
    """

    win: float
    draw: float
    loss: float


@dataclass(frozen=True)
class Strength:
    """How good a deterministic agent is with the first or the second move, exactly.

    Attributes:
        lines: its results over all lines of play that an opponent may choose.
        random: probabilities of its results against a uniformly random opponent.
    """

    lines: Outcomes
    random: Probabilities


def measure(agent: Agent) -> dict[str, Strength]:
    """An agent's strength in each seat, ``"first"`` and ``"second"``."""
    return {
        seat: Strength(enumerate_lines(agent, starts), outcome_against_random(agent, starts))
        for seat, starts in (("first", True), ("second", False))
    }


def winner(board: Iterable[int]) -> int:
    """+1 or -1, the player with three stones in a line, or 0 while there is none."""
    return _winner(_cells(board))


def legal_moves(board: Iterable[int]) -> list[int]:
    """The empty cells, in order; who has won does not matter."""
    return [cell for cell, stone in enumerate(board) if stone == 0]


def minimax_value(board: Iterable[int], to_move: int) -> int:
    """The result of perfect play for the player whose turn it is: +1 win, 0 draw, -1 loss.

    Args:
        board: finished or not.
        to_move: +1 or -1, the player whose turn it is.
    """
    return _value(_seen_by(to_move, board))


def minimax_moves(board: Iterable[int], to_move: int) -> list[int]:
    """All moves that keep the minimax value, in the order of the cells; none if the game is over.

    Args:
        board: finished or not.
        to_move: +1 or -1, the player whose turn it is.
    """
    return _optimal_moves(_seen_by(to_move, board))


def minimax_agent(board: Iterable[int]) -> int:
    """The strongest move of the player whose stones are +1 and whose turn it is.

    Among the moves that keep the minimax value, it is the one that most probably wins against a uniformly random
    opponent if every later move is chosen in the same way; among equals, the one with the lowest number.

    Raises:
        ValueError: if the game is over.
    """
    cells = _cells(board)
    moves = _optimal_moves(cells)
    if not moves:
        raise ValueError(f"minimax_agent was asked for a move on {list(cells)}, where the game is over")
    return max(moves, key=lambda move: _win_probability_of(cells, move))


def enumerate_lines(agent: Agent, agent_starts: bool) -> Outcomes:
    """Play a deterministic agent against every sequence of replies; an illegal move loses, as in the environment."""
    results = [result for result, _ in _games(agent, EMPTY_BOARD, agent_starts)]
    return Outcomes(results.count(1), results.count(0), results.count(-1))


def outcome_against_random(agent: Agent, agent_starts: bool) -> Probabilities:
    """Exact probabilities of a deterministic agent's results against an opponent who draws every move uniformly."""
    totals = {1: Fraction(0), 0: Fraction(0), -1: Fraction(0)}
    for result, probability in _games(agent, EMPTY_BOARD, agent_starts):
        totals[result] += probability
    return Probabilities(float(totals[1]), float(totals[0]), float(totals[-1]))


def _games(agent: Agent, cells: _Cells, agent_moves: bool) -> Iterator[tuple[int, Fraction]]:
    """Result and probability, against a random opponent, of every game that goes on from here."""
    result, moves = _winner(cells), legal_moves(cells)
    if result != 0 or not moves:
        yield result, Fraction(1)
    elif agent_moves:
        move = int(agent(np.array(cells, dtype=np.int8)))
        if move in moves:
            yield from _games(agent, _placed(cells, move, 1), False)
        else:
            yield -1, Fraction(1)
    else:
        for move in moves:
            for result, probability in _games(agent, _placed(cells, move, -1), True):
                yield result, probability / len(moves)


def _cells(board: Iterable[int]) -> _Cells:
    return tuple(int(stone) for stone in board)


def _seen_by(player: int, board: Iterable[int]) -> _Cells:
    return tuple(player * stone for stone in _cells(board))


def _placed(cells: _Cells, move: int, player: int) -> _Cells:
    return (*cells[:move], player, *cells[move + 1 :])


@cache
def _winner(cells: _Cells) -> int:
    for first, second, third in LINES:
        if cells[first] != 0 and cells[first] == cells[second] == cells[third]:
            return cells[first]
    return 0


@cache
def _value(cells: _Cells) -> int:
    """Minimax value for +1, whose turn it is."""
    moves = legal_moves(cells)
    if _winner(cells) != 0 or not moves:
        return _winner(cells)
    return max(_value_of(cells, move) for move in moves)


def _value_of(cells: _Cells, move: int) -> int:
    return -_value(_seen_by(-1, _placed(cells, move, 1)))


def _optimal_moves(cells: _Cells) -> list[int]:
    if _winner(cells) != 0:
        return []
    return [move for move in legal_moves(cells) if _value_of(cells, move) == _value(cells)]


@cache
def _win_probability(cells: _Cells) -> Fraction:
    """That of :func:`minimax_agent`, whose turn it is, against a random opponent."""
    moves = _optimal_moves(cells)
    if not moves:
        return Fraction(_winner(cells) == 1)
    return max(_win_probability_of(cells, move) for move in moves)


def _win_probability_of(cells: _Cells, move: int) -> Fraction:
    placed = _placed(cells, move, 1)
    replies = legal_moves(placed)
    if _winner(placed) != 0 or not replies:
        return Fraction(_winner(placed) == 1)
    return sum((_win_probability(_placed(placed, reply, -1)) for reply in replies), Fraction(0)) / len(replies)
