"""Atari's games as agents of the field play them."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

try:
    import ale_py
except ModuleNotFoundError:
    ale_py = None


def atari_environments(
    game: str,
    num_envs: int = 8,
    *,
    clip_rewards: bool = True,
    episodic_life: bool = False,
    repeat_action_probability: float = 0.25,
    num_threads: int = 0,
    **settings: Any,
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """A vector of one game's environments, with what is usually wrapped around them, all of it in C++.

    Episodes start with up to 30 steps of doing nothing, and with the button that starts a game where there is one. An
    action is played for four frames; an observation is the maximum of the last two, grey, 84 by 84, stacked with
    those of the three steps before: [4, 84, 84], uint8. The environments take their new episodes in the step that ends
    the old ones, so that no step is lost.

    Args:
        game: the name of an environment of ale-py's: ``"ALE/Pong-v5"``.
        num_envs: how many.
        clip_rewards: whether only the sign of a reward counts, which suits training; the score of a game is the return
            without.
        episodic_life: whether the loss of a life ends an episode.
        repeat_action_probability: of the action before taking the place of one (sticky actions); 0 for none.
        num_threads: that play them; 0 for as many as there are cores.
        settings: more, as ``ale_py.vector_env.AtariVectorEnv`` has them: ``max_num_frames_per_episode=10_000``, say.

    Returns:
        A vector environment of gymnasium.

    Raises:
        ModuleNotFoundError: without ale-py.
        ValueError: if there is no such game.

    References:
        Mnih et al. 2015, Human-level control through deep reinforcement learning; Machado et al. 2018,
        arXiv:1709.06009.
    """
    if ale_py is None:
        raise ModuleNotFoundError("atari_environments needs ale-py: pip install 'anygrpo[atari]'")
    gymnasium.register_envs(ale_py)
    known = [name for name in gymnasium.registry if name.startswith("ALE/") and name.endswith("-v5")]
    if game not in known:
        near = [name for name in known if game.lower().split("-")[0].removeprefix("ale/") in name.lower()]
        raise ValueError(f"game is {game!r}, expected one of ale-py's {len(known)}, such as {(near or known)[:3]}")
    return gymnasium.make_vec(
        game,
        num_envs,
        vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP,
        reward_clipping=clip_rewards,
        episodic_life=episodic_life,
        repeat_action_probability=repeat_action_probability,
        num_threads=num_threads,
        **settings,
    )
