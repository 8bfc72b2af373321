"""How the episodes went that were played lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 100


class EpisodeStatistics:
    """Means over the last 100 episodes, as Stable-Baselines3 and gymnasium report them.

    Args:
        window: over how many episodes.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.window = window
        self._returns: deque[float] = deque(maxlen=window)
        self._lengths: deque[int] = deque(maxlen=window)
        self._count = 0
        self.begin_rollout()

    def begin_rollout(self) -> None:
        """From here on episodes count only if the rollout is not forgotten."""
        self._before = self.state_dict()

    def forget_rollout(self) -> None:
        """Leave the episodes of the last rollout out of account."""
        self.load_state_dict(self._before)

    def add(self, episode_return: float, length: int) -> None:
        """Take an episode that has ended into account."""
        self._returns.append(episode_return)
        self._lengths.append(length)
        self._count += 1

    def add_last(self, returns: Sequence[float], lengths: Sequence[int], count: int) -> None:
        """Take ``count`` episodes into account, of which these are the last."""
        self._returns.extend(returns)
        self._lengths.extend(lengths)
        self._count += count

    def metrics(self) -> dict[str, float]:
        """``episode_return``, ``episode_length`` and ``num_episodes`` so far; no means before the first has ended."""
        metrics = {"num_episodes": float(self._count)}
        if self._returns:
            metrics["episode_return"] = sum(self._returns) / len(self._returns)
            metrics["episode_length"] = sum(self._lengths) / len(self._lengths)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns and lengths of the last 100 episodes, and how many there were."""
        return {"returns": list(self._returns), "lengths": list(self._lengths), "num_episodes": self._count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        self._returns = deque(state_dict["returns"], maxlen=self.window)
        self._lengths = deque(state_dict["lengths"], maxlen=self.window)
        self._count = state_dict["num_episodes"]
        self.begin_rollout()
