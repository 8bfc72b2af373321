"""Reinforcement learning of any policy by GRPO and its relatives: implement two small protocols, call ``step``."""

from grpo._import_time import collector_paused

with collector_paused():
    from grpo.advantage_estimator import (
        AdvantageEstimator,
        GroupRelative,
        batch_normalized_advantages,
        group_centered_advantages,
        group_normalized_advantages,
        leave_one_out_advantages,
        normalized_advantages,
    )
    from grpo.batches import Batch
    from grpo.config import (
        DPOConfig,
        DynamicSampling,
        GRPOConfig,
        PPOConfig,
        ReferenceSync,
        ReinforceConfig,
        TrainerConfig,
        UpdateConfig,
    )
    from grpo.conformance import ConformanceError, check_policy_model, check_reward_model
    from grpo.decisions import Decisions, Terms
    from grpo.dpo_trainer import DPOTrainer, with_reference_log_probs
    from grpo.experience import (
        ActionBatch,
        Evaluation,
        Experience,
        GroupedRewards,
        HasEpisodes,
        HasTruncations,
        PairBatch,
        TensorBatch,
        ValueEstimates,
    )
    from grpo.experience_collector import ExperienceCollector
    from grpo.grpo_objective import GRPOObjective, Objective
    from grpo.grpo_trainer import GRPOTrainer
    from grpo.kl_coefficients import AdaptiveKLCoefficient, HorizonKLCoefficient, KLCoefficient
    from grpo.kl_divergence import kl_k1, kl_k2, kl_k3
    from grpo.kl_penalty import KLPenaltySurrogate, kl_penalty_surrogate
    from grpo.kl_rewards import KLPenalizedRewards, kl_penalized_rewards
    from grpo.policy_base import ActorCriticPolicy, FollowsData, PolicyModel, ReportsMetrics, SequentialPolicy
    from grpo.policy_trainer import PolicyTrainer
    from grpo.ppo_objective import PPOObjective, clipped_value_loss, value_loss
    from grpo.ppo_trainer import PPOTrainer
    from grpo.preference_collector import CollectedPreferences, PreferenceCollector, pair_best_with_worst
    from grpo.preference_objective import (
        DPOObjective,
        HingePreferenceLoss,
        IdentityPreferenceLoss,
        PairLogProbs,
        PreferenceLoss,
        PreferenceObjective,
        RobustPreferenceLoss,
        SigmoidPreferenceLoss,
        hinge_preference_loss,
        identity_preference_loss,
        robust_preference_loss,
        sigmoid_preference_loss,
        supervised_loss,
    )
    from grpo.preferences import Preference
    from grpo.reinforce_trainer import ReinforceTrainer
    from grpo.reward_model_base import PartialRewards, RewardModel
    from grpo.schedules import LinearSchedule
    from grpo.segments import Segments
    from grpo.soft_adaptive_surrogate import SoftAdaptiveSurrogate, soft_adaptive_surrogate
    from grpo.surrogate import (
        ClippedImportanceSurrogate,
        ClippedSurrogate,
        SampleClippedSurrogate,
        ScoreFunctionSurrogate,
        Surrogate,
        clipped_importance_surrogate,
        clipped_surrogate,
        probability_ratio,
        sample_probability_ratio,
        score_function_surrogate,
    )
    from grpo.temporal_advantages import (
        GeneralizedAdvantage,
        MonteCarlo,
        episode_returns,
        generalized_advantages,
        group_time_baseline,
        mean_baseline,
        rewards_to_go,
        value_baseline,
    )
    from grpo.trainer import Trainer
    from grpo.validation import NonFiniteError

__all__ = [
    "ActionBatch",
    "ActorCriticPolicy",
    "AdaptiveKLCoefficient",
    "AdvantageEstimator",
    "Batch",
    "ClippedImportanceSurrogate",
    "ClippedSurrogate",
    "CollectedPreferences",
    "ConformanceError",
    "DPOConfig",
    "DPOObjective",
    "DPOTrainer",
    "Decisions",
    "DynamicSampling",
    "Evaluation",
    "Experience",
    "ExperienceCollector",
    "FollowsData",
    "GRPOConfig",
    "GRPOObjective",
    "GRPOTrainer",
    "GeneralizedAdvantage",
    "GroupRelative",
    "GroupedRewards",
    "HasEpisodes",
    "HasTruncations",
    "HingePreferenceLoss",
    "HorizonKLCoefficient",
    "IdentityPreferenceLoss",
    "KLCoefficient",
    "KLPenalizedRewards",
    "KLPenaltySurrogate",
    "LinearSchedule",
    "MonteCarlo",
    "NonFiniteError",
    "Objective",
    "PPOConfig",
    "PPOObjective",
    "PPOTrainer",
    "PairBatch",
    "PairLogProbs",
    "PartialRewards",
    "PolicyModel",
    "PolicyTrainer",
    "Preference",
    "PreferenceCollector",
    "PreferenceLoss",
    "PreferenceObjective",
    "ReferenceSync",
    "ReinforceConfig",
    "ReinforceTrainer",
    "ReportsMetrics",
    "RewardModel",
    "RobustPreferenceLoss",
    "SampleClippedSurrogate",
    "ScoreFunctionSurrogate",
    "Segments",
    "SequentialPolicy",
    "SigmoidPreferenceLoss",
    "SoftAdaptiveSurrogate",
    "Surrogate",
    "TensorBatch",
    "Terms",
    "Trainer",
    "TrainerConfig",
    "UpdateConfig",
    "ValueEstimates",
    "batch_normalized_advantages",
    "check_policy_model",
    "check_reward_model",
    "clipped_importance_surrogate",
    "clipped_surrogate",
    "clipped_value_loss",
    "episode_returns",
    "generalized_advantages",
    "group_centered_advantages",
    "group_normalized_advantages",
    "group_time_baseline",
    "hinge_preference_loss",
    "identity_preference_loss",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_penalized_rewards",
    "kl_penalty_surrogate",
    "leave_one_out_advantages",
    "mean_baseline",
    "normalized_advantages",
    "pair_best_with_worst",
    "probability_ratio",
    "rewards_to_go",
    "robust_preference_loss",
    "sample_probability_ratio",
    "score_function_surrogate",
    "sigmoid_preference_loss",
    "soft_adaptive_surrogate",
    "supervised_loss",
    "value_baseline",
    "value_loss",
    "with_reference_log_probs",
]
__version__ = "0.1.0"
