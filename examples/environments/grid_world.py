"""A grid with obstacles, to be crossed in as few steps as possible."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

LAYOUT = (
    "S..#.",
    ".#...",
    ".##.#",
    "...#.",
    ".#..G",
)
"""Start, goal, and obstacles (#); the upper right is a dead end."""

SIZE = len(LAYOUT)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Rows and columns of the actions: 0 up, 1 right, 2 down, 3 left."""

START = "".join(LAYOUT).index("S")
GOAL = "".join(LAYOUT).index("G")
STEP_REWARD = -1.0
GOAL_REWARD = 10.0


def moved(cell: int, action: int) -> int:
    """The cell that an action leads to: the same one if a wall or an obstacle is in the way."""
    row, column = cell // SIZE + MOVES[action][0], cell % SIZE + MOVES[action][1]
    inside = 0 <= row < SIZE and 0 <= column < SIZE
    return row * SIZE + column if inside and LAYOUT[row][column] != "#" else cell


def optimal_return() -> float:
    """The largest undiscounted return, that of a shortest path from start to goal, by breadth-first search."""
    distance, reached, frontier = 0, {START}, {START}
    while GOAL not in reached:
        frontier = {moved(cell, action) for cell in frontier for action in range(len(MOVES))} - reached
        reached |= frontier
        distance += 1
    return (distance - 1) * STEP_REWARD + GOAL_REWARD


class GridWorld(gymnasium.Env[np.int64, np.int64]):
    """From the upper left corner to the lower right one, around the obstacles of ``LAYOUT``.

    The reward is -1 a step, +10 for the step that reaches the goal and terminates the episode. A move into a wall or
    an obstacle stays where it is, and costs a step.

    Args:
        render_mode: "ansi" for the grid as text, None for nothing.

    Attributes:
        cell: where the agent is, row by row from the upper left, 0 to 24; also the observation.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Discrete(SIZE * SIZE)
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))
        self.cell = START

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Back to the start."""
        super().reset(seed=seed)
        self.cell = START
        return np.int64(self.cell), {}

    def step(self, action: int | np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """One cell up, right, down or left, actions 0 to 3."""
        if action not in self.action_space:
            raise ValueError(f"GridWorld got action {action!r}, expected 0 up, 1 right, 2 down or 3 left")
        if self.cell == GOAL:
            raise gymnasium.error.ResetNeeded("the goal has been reached: call reset() before the next step")
        self.cell = moved(self.cell, int(action))
        arrived = self.cell == GOAL
        return np.int64(self.cell), GOAL_REWARD if arrived else STEP_REWARD, arrived, False, {}

    def render(self) -> str | None:
        """``LAYOUT`` with an ``x`` where the agent is."""
        if self.render_mode is None:
            return None
        cells = list("".join(LAYOUT))
        cells[self.cell] = "x"
        return "\n".join("".join(cells[SIZE * row : SIZE * (row + 1)]) for row in range(SIZE))
