"""Groups of episodes that begin in the midst of earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from grpo_adapters.gym import EpisodeSampler, Trajectory


@dataclass(frozen=True)
class Branch:
    """A state along an episode: where it began, and what was played from there on."""

    seed: int
    actions: tuple[Any, ...] = ()


class Replayed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Resets to the branch of a seed by playing its actions again: what C++ holds cannot be copied, but repeats itself.

    Attributes:
        branches: by the seed that stands for each; other seeds are those of a reset as usual.

    Example:
        >>> environment = Replayed(gymnasium.make("CartPole-v1"), {7: Branch(seed=0, actions=(1, 0))})
        >>> observation, _ = environment.reset(seed=7)
        >>> straight = gymnasium.make("CartPole-v1")
        >>> _ = straight.reset(seed=0), straight.step(1)
        >>> bool((straight.step(0)[0] == observation).all())
        True
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], branches: dict[int, Branch]) -> None:
        super().__init__(environment)
        self.branches = branches

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """What was observed at the branch."""
        assert seed is not None
        branch = self.branches.get(seed, Branch(seed))
        observation, info = self.env.reset(seed=branch.seed, options=options)
        for action in branch.actions:
            observation, _, _, _, info = self.env.step(action)
        return observation, info


class BranchingEpisodes(EpisodeSampler):
    """Plays half of the groups from new starts, and the others from states along the first half's last episodes.

    A branch is drawn uniformly from all steps of all episodes of the step before that began anew. Groups that branch
    off give the baseline of VinePPO: the mean return of continuations from one state along an episode.

    References:
        Kazemnejad et al. 2024 (VinePPO), arXiv:2410.01679. Schulman et al. 2015, arXiv:1502.05477, section 5.2: vines.
    """

    def __init__(self, make_environment: Callable[[], gymnasium.Env[Any, Any]], num_envs: int, seed: int) -> None:
        self.branches: dict[int, Branch] = {}
        super().__init__(lambda: Replayed(make_environment(), self.branches), num_envs)
        self._generator = np.random.default_rng(seed)
        self._earlier: list[Branch] = []
        self._returns: deque[float] = deque(maxlen=100)
        self._num_replayed = 0

    def sample(
        self, policy: Any, states: Sequence[int], num_actions_per_state: int, **kwargs: Any
    ) -> list[list[Trajectory]]:
        """A group of episodes from each seed, or from the branch that stands for it."""
        new = (len(states) + 1) // 2
        self.branches.clear()
        if self._earlier:
            self.branches.update({state: self._branch() for state in states[new:]})
        self._num_replayed += num_actions_per_state * sum(len(branch.actions) for branch in self.branches.values())
        groups = super().sample(policy, states, num_actions_per_state, **kwargs)
        self._earlier = [
            Branch(seed, tuple(policy.distribution.actions(episode.decisions)))
            for seed, group in zip(states[:new], groups[:new], strict=True)
            for episode in group
        ]
        self._returns.extend(float(episode.rewards.sum()) for group in groups[:new] for episode in group)
        return groups

    def get_metrics(self) -> dict[str, float]:
        """The mean return of the last 100 episodes that began anew, and the steps that were played again so far."""
        return {"episode_return": float(np.mean(self._returns)), "num_replayed": float(self._num_replayed)}

    def _branch(self) -> Branch:
        lengths = np.array([len(episode.actions) for episode in self._earlier])
        chosen = self._earlier[self._generator.choice(len(lengths), p=lengths / lengths.sum())]
        return Branch(chosen.seed, chosen.actions[: self._generator.integers(len(chosen.actions))])
