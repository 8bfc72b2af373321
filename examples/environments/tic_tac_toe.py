"""Tic-tac-toe against an opponent who belongs to the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from environments.tic_tac_toe_analysis import legal_moves, winner

Opponent = Callable[[NDArray[np.int8], np.random.Generator], int]
"""From a board on which its stones are +1, and the environment's random generator, to the cell of its next stone."""


def random_opponent(board: NDArray[np.int8], generator: np.random.Generator) -> int:
    """One of the empty cells, uniformly."""
    return int(generator.choice(legal_moves(board)))


class TicTacToe(gymnasium.Env[NDArray[np.float32], np.int64]):
    """The agent and its opponent take turns; one step is a move of the agent and the reply of the opponent.

    Cells are numbered row by row, 0 to 8; an action is the cell of the agent's next stone. The observation has 18
    numbers, 0 or 1: where the agent's stones are, then where the opponent's are. The reward is +1 for a win, -1 for a
    loss, else 0. An illegal move loses at once and leaves the board as it is; ``info["action_mask"]``, int8 of shape
    [9], is 1 where a move is legal, and all ones when the game is over and no move is left to be made.

    The opponent sees the board from its own side, with its stones as +1, so that a function that plays for the agent
    serves as the opponent too. It may be replaced at any time.

    Args:
        opponent: chooses the opponent's moves.
        render_mode: "ansi" for the board as text, None for nothing.

    Attributes:
        opponent: chooses the opponent's moves.
        board: the stones, int8 of shape [9]: +1 the agent's, -1 the opponent's, 0 none.
        agent_starts: whether the agent has the first move of this game.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, opponent: Opponent = random_opponent, render_mode: str | None = None) -> None:
        self.opponent = opponent
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0, 1, (18,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(9)
        self.board = np.zeros(9, dtype=np.int8)
        self.agent_starts = True
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A new game, in which the opponent has moved already if it starts.

        Args:
            seed: of the player who starts and of the opponent.
            options: ``{"agent_starts": bool}`` says who starts; without it, each does with probability 1/2.
        """
        super().reset(seed=seed)
        given = (options or {}).get("agent_starts")
        self.agent_starts = bool(self.np_random.integers(2)) if given is None else bool(given)
        self.board = np.zeros(9, dtype=np.int8)
        self._over = False
        if not self.agent_starts:
            self._reply()
        return self._observation(), self._info()

    def step(self, action: int | np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """A stone of the agent, and one of the opponent if that does not end the game."""
        if action not in self.action_space:
            raise ValueError(f"TicTacToe got action {action!r}, expected a cell, 0 to 8")
        if self._over:
            raise gymnasium.error.ResetNeeded("the game is over: call reset() before the next step")
        if self.board[action] != 0:
            self._over, reward = True, -1.0
        else:
            self.board[action] = 1
            if not self._finished():
                self._reply()
            self._over, reward = self._finished(), float(winner(self.board))
        return self._observation(), reward, self._over, False, self._info()

    def render(self) -> str | None:
        """The board: X for the stones of whoever started, O for the other's, and the numbers 1 to 9 of empty cells."""
        if self.render_mode is None:
            return None
        marks = {1: "X", -1: "O"} if self.agent_starts else {1: "O", -1: "X"}
        cells = [marks.get(stone, str(cell)) for cell, stone in enumerate(self.board.tolist(), start=1)]
        return "\n---+---+---\n".join(" " + " | ".join(cells[row : row + 3]) for row in (0, 3, 6))

    def _reply(self) -> None:
        cell = self.opponent(-self.board, self.np_random)
        if cell not in legal_moves(self.board):
            raise ValueError(
                f"the opponent of TicTacToe chose cell {cell!r} on {(-self.board).tolist()}, expected one of the empty "
                f"cells {legal_moves(self.board)}"
            )
        self.board[cell] = -1

    def _finished(self) -> bool:
        return winner(self.board) != 0 or not legal_moves(self.board)

    def _observation(self) -> NDArray[np.float32]:
        return np.concatenate((self.board == 1, self.board == -1)).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.ones(9, dtype=np.int8) if self._over else (self.board == 0).astype(np.int8)}
