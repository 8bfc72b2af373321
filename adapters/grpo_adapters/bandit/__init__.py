"""Bandits: softmax policies, environments as reward models, and the classical strategies to compare with."""

from grpo import seeded_generator
from grpo_adapters.bandit.environments import (
    BernoulliRewards,
    ContextualBandit,
    DynamicBandit,
    GaussianRewards,
    RewardDistribution,
    StationaryBandit,
    random_walk_means,
    regret,
    seasonal_means,
    switching_means,
)
from grpo_adapters.bandit.policies import ContextualSoftmaxPolicy, SoftmaxPolicy

__all__ = [
    "BernoulliRewards",
    "ContextualBandit",
    "ContextualSoftmaxPolicy",
    "DynamicBandit",
    "GaussianRewards",
    "RewardDistribution",
    "SoftmaxPolicy",
    "StationaryBandit",
    "random_walk_means",
    "regret",
    "seasonal_means",
    "seeded_generator",
    "switching_means",
]
