"""Three small environments whose best results are known exactly; to import this package is to register them.

They are ``anygrpo/RandomWalk-v0``, ``anygrpo/GridWorld-v0`` and ``anygrpo/TicTacToe-v0``, for ``gymnasium.make``.
"""

from __future__ import annotations

import gymnasium

from environments.grid_world import GridWorld
from environments.random_walk import RandomWalk
from environments.tic_tac_toe import Opponent, TicTacToe, random_opponent

__all__ = ["GridWorld", "Opponent", "RandomWalk", "TicTacToe", "random_opponent"]

gymnasium.register("anygrpo/RandomWalk-v0", "environments.random_walk:RandomWalk", max_episode_steps=100)
gymnasium.register("anygrpo/GridWorld-v0", "environments.grid_world:GridWorld", max_episode_steps=100)
gymnasium.register("anygrpo/TicTacToe-v0", "environments.tic_tac_toe:TicTacToe")
