"""Algorithms that train a language model, each a few lines: what differs is what they take for credit and for loss.

Settings are what their configs share: ``group_size``, ``batch_size``, ``learning_rate``, ``seed``, ``device``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arithmetic import LONGEST_ANSWER
from grpo import (
    ClippedImportanceSurrogate,
    DynamicSampling,
    GeneralizedAdvantage,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    MonteCarlo,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    SampleClippedSurrogate,
    ScoreFunctionSurrogate,
    StateLoader,
    Trainer,
    group_centered_advantages,
    leave_one_out_advantages,
)

Settings = dict[str, Any]


def grpo(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> GRPOTrainer[Any, Any]:
    """A completion's reward in standard deviations from the mean of its group; clipped ratios."""
    return GRPOTrainer(GRPOConfig(**settings), policy, reward_model)


def dr_grpo(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> GRPOTrainer[Any, Any]:
    """GRPO without the division by the standard deviation, and without that by a completion's length."""
    config = GRPOConfig(**settings, loss_averaging=LONGEST_ANSWER)
    return GRPOTrainer(config, policy, reward_model, advantage_estimator=GroupRelative(group_centered_advantages))


def dapo(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> GRPOTrainer[Any, Any]:
    """GRPO that leaves more room upwards, weighs all tokens equally, and replaces groups of equal rewards."""
    sampling = DynamicSampling(max_rounds=2, draw_states=loader.draw)
    config = GRPOConfig(**settings, clip_high=0.28, loss_averaging="per_decision", dynamic_sampling=sampling)
    return GRPOTrainer(config, policy, reward_model)


def gspo(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> GRPOTrainer[Any, Any]:
    """GRPO with one ratio for the whole completion."""
    objective = GRPOObjective(surrogate=SampleClippedSurrogate())
    return GRPOTrainer(GRPOConfig(**settings), policy, reward_model, objective=objective)


def cispo(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> GRPOTrainer[Any, Any]:
    """GRPO that clips a token's weight and never loses its gradient."""
    config = GRPOConfig(**settings, loss_averaging="per_decision")
    objective = GRPOObjective(surrogate=ClippedImportanceSurrogate())
    return GRPOTrainer(config, policy, reward_model, objective=objective)


def rloo(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> GRPOTrainer[Any, Any]:
    """A completion's reward less the mean of the others in its group; one update of a rollout, so no ratios."""
    return GRPOTrainer(
        GRPOConfig(**(settings | {"batch_size": None}), loss_averaging=1),
        policy,
        reward_model,
        advantage_estimator=GroupRelative(leave_one_out_advantages),
        objective=GRPOObjective(surrogate=ScoreFunctionSurrogate()),
    )


def reinforce(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> ReinforceTrainer[Any, Any]:
    """The reward, normalised over the whole rollout; one update of it."""
    config = ReinforceConfig(**(settings | {"batch_size": None}))
    return ReinforceTrainer(config, policy, reward_model, advantage_estimator=MonteCarlo(discount=1.0))


def ppo(policy: Any, reward_model: Any, loader: StateLoader, settings: Settings) -> PPOTrainer[Any, Any]:
    """Each token's credit from a critic, which learns along; clipped ratios. The policy has a value head."""
    config = PPOConfig(**settings, num_epochs_per_update=1)
    estimator = GeneralizedAdvantage(discount=1.0, gae_lambda=0.95)
    return PPOTrainer(config, policy, reward_model, advantage_estimator=estimator)


ALGORITHMS: dict[str, Callable[[Any, Any, StateLoader, Settings], Trainer[Any, Any]]] = {
    "grpo": grpo,
    "dr-grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
    "rloo": rloo,
    "reinforce": reinforce,
    "ppo": ppo,
}
