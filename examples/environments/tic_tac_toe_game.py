"""Tic-tac-toe in the terminal, a person against an agent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from environments.tic_tac_toe import TicTacToe
from environments.tic_tac_toe_analysis import Agent, legal_moves


def play_in_terminal(agent: Agent, person_starts: bool | None) -> None:
    """One game; the person is the agent of the environment, and the agent its opponent.

    Args:
        agent: plays against the person.
        person_starts: who has the first move; None to draw it.
    """

    def opponent(board: NDArray[np.int8], generator: np.random.Generator) -> int:
        return agent(board)

    environment = TicTacToe(opponent, render_mode="ansi")
    environment.reset(options={"agent_starts": person_starts})
    print("You play X and start." if environment.agent_starts else "You play O; the agent has started.")
    reward, over = 0.0, False
    while not over:
        print(f"\n{environment.render()}\n")
        cell = ask(legal_moves(environment.board))
        if cell is None:
            print("\nThe game is left unfinished. Goodbye!")
            return
        _, reward, over, _, _ = environment.step(cell)
    print(f"\n{environment.render()}\n")
    print({1.0: "You win.", 0.0: "A draw.", -1.0: "The agent wins."}[reward])


def ask(cells: list[int]) -> int | None:
    """One of the cells, which the person counts from 1, asked for until the answer is one; None at the end of input."""
    numbers = [str(cell + 1) for cell in cells]
    while True:
        try:
            answer = input(f"Your move ({', '.join(numbers)}): ").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if answer in numbers:
            return int(answer) - 1
        print("Please give the number of an empty cell.")
