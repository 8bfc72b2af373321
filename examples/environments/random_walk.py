"""A row of positions with a loss at its left end and a win at its right end."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

LEFT, RIGHT = 0, 1


class RandomWalk(gymnasium.Env[np.int64, np.int64]):
    """Starts in the middle and moves one position a step; a random policy wins half of the time, the best one always.

    The reward is -1 for the step that reaches the left end, +1 for the one that reaches the right end, else 0; both
    terminate the episode. After Sutton & Barto 2018, "Reinforcement learning: an introduction", example 6.2.

    Args:
        num_positions: with both ends, an odd number of at least 3.
        render_mode: "ansi" for a row of text, None for nothing.

    Attributes:
        position: of the walker, 0 to ``num_positions - 1``; also the observation.

    Raises:
        ValueError: if there is no middle.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, num_positions: int = 7, render_mode: str | None = None) -> None:
        if num_positions < 3 or num_positions % 2 == 0:
            raise ValueError(f"RandomWalk has num_positions={num_positions}, expected an odd number of at least 3")
        self.num_positions = num_positions
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Discrete(num_positions)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.position = num_positions // 2

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Back to the middle."""
        super().reset(seed=seed)
        self.position = self.num_positions // 2
        return np.int64(self.position), {}

    def step(self, action: int | np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """One position to the left, action 0, or to the right, action 1."""
        if action not in self.action_space:
            raise ValueError(f"RandomWalk got action {action!r}, expected {LEFT} for left or {RIGHT} for right")
        if self._at_an_end():
            raise gymnasium.error.ResetNeeded("the walk has reached an end: call reset() before the next step")
        self.position += 1 if action == RIGHT else -1
        reward = 0.0
        if self._at_an_end():
            reward = -1.0 if self.position == 0 else 1.0
        return np.int64(self.position), reward, self._at_an_end(), False, {}

    def render(self) -> str | None:
        """The row, ``-..x..+`` at the start: its ends, its positions, and the walker."""
        if self.render_mode is None:
            return None
        row = ["-", *"." * (self.num_positions - 2), "+"]
        row[self.position] = "x"
        return "".join(row)

    def _at_an_end(self) -> bool:
        return self.position in (0, self.num_positions - 1)
