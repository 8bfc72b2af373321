"""What is told of the rewards of a rollout."""

from __future__ import annotations

import torch

from grpo.data.experience import Experience, GroupedRewards


def rollout_metrics(experience: Experience) -> dict[str, float]:
    """What was collected: what the rewards were like, how much was cut short, what the collector tells besides."""
    metrics = {} if "reward" in experience.metrics else reward_metrics(experience.sample_rewards)
    truncated = experience.truncated
    if truncated is not None:
        num_truncated, num_samples = experience.world.totals(truncated.sum().item(), len(truncated))
        metrics["frac_truncated"] = num_truncated / num_samples
    return {**metrics, **experience.metrics}


def reward_metrics(rewards: GroupedRewards) -> dict[str, float]:
    """What the rewards were like: ``reward``, ``reward_std`` and ``frac_reward_zero_std``."""
    std = rewards.std
    sums = torch.stack((rewards.values.sum(), std.sum(), std.count_nonzero())).tolist()
    counts = len(rewards.values), len(rewards.groups)
    reward, reward_std, with_spread, samples, groups = rewards.world.totals(*sums, *counts)
    return {
        "reward": reward / samples,
        "reward_std": reward_std / groups,
        "frac_reward_zero_std": 1 - with_spread / groups,
    }
