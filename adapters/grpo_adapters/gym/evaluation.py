"""How good a policy is: episodes that it was not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from grpo_adapters.gym.policies import GymPolicy

NORMAL_QUANTILE = 1.96


@dataclass(frozen=True)
class EvaluationResult:
    """Returns and lengths of the episodes that a policy was evaluated on.

    Attributes:
        returns: undiscounted, [n].
        lengths: in steps, [n].
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Unbiased standard deviation of the returns; 0 of a single one."""
        return float(self.returns.std(ddof=1)) if len(self.returns) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of the mean return, by the normal approximation."""
        half = NORMAL_QUANTILE * self.std / math.sqrt(len(self.returns))
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.mean:.2f} ± {self.std:.2f} over {len(self.returns)} episodes, "
            f"95% interval of the mean [{low:.2f}, {high:.2f}]"
        )


def evaluate(
    policy: GymPolicy,
    environment: gymnasium.Env[Any, Any],
    num_episodes: int = 100,
    *,
    seed: int = 10_000,
    deterministic: bool = True,
) -> EvaluationResult:
    """Play whole episodes and learn nothing from them.

    Args:
        policy: the policy; it is left in the mode that it was in.
        environment: one environment. Made with ``render_mode="human"`` it shows itself; wrapped in
            ``gymnasium.wrappers.RecordVideo`` it is filmed.
        num_episodes: n; episode i is reset with ``seed + i``.
        seed: of the first episode.
        deterministic: play the most probable action, or draw one.

    Raises:
        ValueError: if ``num_episodes`` is below 1.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes is {num_episodes}, expected at least 1")
    was_training = policy.training
    policy.eval()
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes, dtype=np.int64)
    try:
        for episode in range(num_episodes):
            observation, info = environment.reset(seed=seed + episode)
            done = False
            while not done:
                action = act(policy, observation, info, deterministic=deterministic)
                observation, reward, terminated, truncated, info = environment.step(action)
                returns[episode] += float(reward)
                lengths[episode] += 1
                done = terminated or truncated
    finally:
        policy.train(was_training)
    return EvaluationResult(returns, lengths)


def act(policy: GymPolicy, observation: Any, info: dict[str, Any], *, deterministic: bool = True) -> Any:
    """The action for one observation of one environment; a mask in ``info["action_mask"]`` is honoured."""
    masks = None if "action_mask" not in info else np.asarray(info["action_mask"])[None]
    batch = (
        {name: np.asarray(part)[None] for name, part in observation.items()}
        if isinstance(observation, dict)
        else np.asarray(observation)[None]
    )
    return policy.predict(batch, masks, deterministic=deterministic)[0]
