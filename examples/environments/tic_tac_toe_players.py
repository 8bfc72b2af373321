"""Who plays tic-tac-toe: the policy at its best, and frozen copies of it that it plays against."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from environments.tic_tac_toe_analysis import EMPTY_BOARD, Agent, legal_moves, winner
from grpo_adapters.gym import GymActorCritic

MOST_RANDOM_MOVES = 2


def reachable_boards() -> NDArray[np.int8]:
    """The boards on which a move is to be made, with +1 for the stones of the player who makes it, [4520, 9]."""
    found, waiting = {EMPTY_BOARD}, [EMPTY_BOARD]
    while waiting:
        board = waiting.pop()
        for move in legal_moves(board):
            after = tuple(-1 if cell == move else -stone for cell, stone in enumerate(board))
            if after not in found and winner(after) == 0 and legal_moves(after):
                found.add(after)
                waiting.append(after)
    return np.array(sorted(found), dtype=np.int8)


POWERS = 3 ** np.arange(9)
BOARDS = reachable_boards()
OBSERVATIONS = np.concatenate((BOARDS == 1, BOARDS == -1), axis=1).astype(np.float32)
ROWS = np.zeros(3**9, dtype=np.int64)
ROWS[(BOARDS + 1) @ POWERS] = np.arange(len(BOARDS))


def row_of(board: NDArray[np.int8]) -> int:
    """Where a board is among ``BOARDS``."""
    return int(ROWS[(board + 1) @ POWERS])


class FrozenCopy:
    """An opponent who plays as the policy does now, but draws a share of its moves uniformly."""

    @torch.no_grad()
    def __init__(self, policy: GymActorCritic, random_moves: float) -> None:
        empty = torch.from_numpy(BOARDS == 0)
        logits = policy.actor(torch.from_numpy(OBSERVATIONS)).masked_fill(~empty, -torch.inf)
        uniform = empty / empty.sum(1, keepdim=True)
        probabilities = (1 - random_moves) * logits.softmax(1) + random_moves * uniform
        self._cumulative = probabilities.double().cumsum(1).numpy()

    def __call__(self, board: NDArray[np.int8], generator: np.random.Generator) -> int:
        cumulative = self._cumulative[row_of(board)]
        return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))


class RandomOpening(gymnasium.Wrapper[NDArray[np.float32], np.int64, NDArray[np.float32], np.int64]):
    """Starts a game after up to two random moves of the agent, and the opponent's replies to them."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(self.np_random.integers(MOST_RANDOM_MOVES + 1)):
            move = self.np_random.choice(np.flatnonzero(info["action_mask"]))
            observation, _, over, _, info = self.env.step(move)
            if over:
                return self.reset(options=options)
        return observation, info


def greedy_agent(policy: GymActorCritic) -> Agent:
    """The policy's most probable move on every board."""
    moves = policy.predict(OBSERVATIONS, BOARDS == 0)
    return lambda board: int(moves[row_of(board)])
