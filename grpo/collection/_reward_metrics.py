"""What is told of the rewards of a rollout."""

from __future__ import annotations

import torch

from grpo.data.experience import Experience, GroupedRewards


def rollout_metrics(experience: Experience) -> dict[str, float]:
    """What was collected: what the rewards were like, how much was cut short, what the collector tells besides."""
    metrics = {} if "reward" in experience.metrics else reward_metrics(experience.sample_rewards)
    if experience.truncated is not None:
        metrics["frac_truncated"] = experience.truncated.float().mean().item()
    return {**metrics, **experience.metrics}


def reward_metrics(rewards: GroupedRewards) -> dict[str, float]:
    """What the rewards were like: ``reward``, ``reward_std`` and ``frac_reward_zero_std``."""
    scalars = torch.stack((rewards.values.mean(), rewards.std.mean(), rewards.std.count_nonzero()))
    reward, reward_std, groups_with_spread = scalars.tolist()
    return {
        "reward": reward,
        "reward_std": reward_std,
        "frac_reward_zero_std": 1 - groups_with_spread / len(rewards.groups),
    }
