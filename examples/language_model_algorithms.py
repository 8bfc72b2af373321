"""Algorithms that train a language model, each a few lines: what differs is what they take for credit and for loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from grpo import (
    AdvantageEstimator,
    ClippedImportanceSurrogate,
    DynamicSampling,
    GeneralizedAdvantage,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    KLPenalizedRewards,
    LinearSchedule,
    MonteCarlo,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    RewardModel,
    SampleClippedSurrogate,
    ScoreFunctionSurrogate,
    Trainer,
    group_centered_advantages,
    leave_one_out_advantages,
)
from grpo_adapters.huggingface import CausalLMActorCritic, CausalLMPolicy


class Common(TypedDict):
    """Settings that all algorithms share."""

    group_size: int
    learning_rate: LinearSchedule
    micro_batch_size: int | None
    seed: int
    device: str


@dataclass(frozen=True)
class Setup:
    """What there is to build a trainer from.

    Attributes:
        policy: to train; PPO needs its critic.
        reward_model: scores completions.
        draw_prompts: so many prompts to train on.
        common: settings that all algorithms share.
        batch_size: completions in an update of those algorithms that make several of a rollout.
        max_new_tokens: the longest that a completion can be.
        kl_coefficient: weight of the divergence from the policy as it is now; 0 for no reference policy.
    """

    policy: CausalLMPolicy
    reward_model: RewardModel[Any, Any]
    draw_prompts: Callable[[int], list[Any]]
    common: Common
    batch_size: int
    max_new_tokens: int
    kl_coefficient: float

    @property
    def reference(self) -> CausalLMPolicy | None:
        """The policy to stay near to."""
        return self.policy.reference() if self.kl_coefficient > 0 else None

    def penalized(self, estimator: AdvantageEstimator) -> AdvantageEstimator:
        """Credit for rewards less what the divergence costs, token by token."""
        return KLPenalizedRewards(estimator, self.kl_coefficient) if self.kl_coefficient > 0 else estimator


def grpo(setup: Setup) -> GRPOTrainer[Any, Any]:
    """A completion's reward in standard deviations from the mean of its group; clipped ratios."""
    config = GRPOConfig(**setup.common, batch_size=setup.batch_size, kl_coefficient=setup.kl_coefficient)
    return GRPOTrainer(config, setup.policy, setup.reward_model, setup.reference)


def dr_grpo(setup: Setup) -> GRPOTrainer[Any, Any]:
    """GRPO without the division by the standard deviation, and without that by a completion's length."""
    config = GRPOConfig(
        **setup.common,
        batch_size=setup.batch_size,
        kl_coefficient=setup.kl_coefficient,
        loss_averaging=setup.max_new_tokens,
    )
    estimator = GroupRelative(group_centered_advantages)
    return GRPOTrainer(config, setup.policy, setup.reward_model, setup.reference, advantage_estimator=estimator)


def dapo(setup: Setup) -> GRPOTrainer[Any, Any]:
    """GRPO that leaves more room upwards, weighs all tokens equally, and replaces groups of equal rewards."""
    config = GRPOConfig(
        **setup.common,
        batch_size=setup.batch_size,
        kl_coefficient=setup.kl_coefficient,
        clip_high=0.28,
        loss_averaging="per_decision",
        dynamic_sampling=DynamicSampling(max_rounds=2, draw_states=setup.draw_prompts),
    )
    return GRPOTrainer(config, setup.policy, setup.reward_model, setup.reference)


def gspo(setup: Setup) -> GRPOTrainer[Any, Any]:
    """GRPO with one ratio for the whole completion."""
    objective = GRPOObjective(surrogate=SampleClippedSurrogate(), kl_coefficient=setup.kl_coefficient)
    config = GRPOConfig(**setup.common, batch_size=setup.batch_size)
    return GRPOTrainer(config, setup.policy, setup.reward_model, setup.reference, objective=objective)


def cispo(setup: Setup) -> GRPOTrainer[Any, Any]:
    """GRPO that clips a token's weight and never loses its gradient."""
    objective = GRPOObjective(surrogate=ClippedImportanceSurrogate(), kl_coefficient=setup.kl_coefficient)
    config = GRPOConfig(**setup.common, batch_size=setup.batch_size, loss_averaging="per_decision")
    return GRPOTrainer(config, setup.policy, setup.reward_model, setup.reference, objective=objective)


def rloo(setup: Setup) -> GRPOTrainer[Any, Any]:
    """A completion's reward less the mean of the others in its group; one update of a rollout, so no ratios."""
    return GRPOTrainer(
        GRPOConfig(**setup.common, loss_averaging=1),
        setup.policy,
        setup.reward_model,
        setup.reference,
        advantage_estimator=setup.penalized(GroupRelative(leave_one_out_advantages)),
        objective=GRPOObjective(surrogate=ScoreFunctionSurrogate()),
    )


def reinforce(setup: Setup) -> ReinforceTrainer[Any, Any]:
    """The reward, normalised over the whole rollout; one update of it."""
    return ReinforceTrainer(
        ReinforceConfig(**setup.common),
        setup.policy,
        setup.reward_model,
        setup.reference,
        advantage_estimator=setup.penalized(MonteCarlo(discount=1.0)),
    )


def ppo(setup: Setup) -> PPOTrainer[Any, Any]:
    """Each token's credit from a critic, which learns along; clipped ratios."""
    assert isinstance(setup.policy, CausalLMActorCritic)
    return PPOTrainer(
        PPOConfig(**setup.common, batch_size=setup.batch_size, num_epochs_per_update=1),
        setup.policy,
        setup.reward_model,
        setup.reference,
        advantage_estimator=setup.penalized(GeneralizedAdvantage(discount=1.0, gae_lambda=0.95)),
    )


ALGORITHMS: dict[str, Callable[[Setup], Trainer[Any, Any]]] = {
    "grpo": grpo,
    "dr-grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
    "rloo": rloo,
    "reinforce": reinforce,
    "ppo": ppo,
}
