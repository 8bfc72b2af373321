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
    )
    from grpo.batches import Batch
    from grpo.config import GRPOConfig, TrainerConfig
    from grpo.conformance import ConformanceError, check_policy_model, check_reward_model
    from grpo.experience import (
        ActionBatch,
        Decisions,
        Evaluation,
        Experience,
        GroupedRewards,
        PairBatch,
        TensorBatch,
        Terms,
    )
    from grpo.experience_collector import ExperienceCollector
    from grpo.grpo_objective import GRPOObjective, Objective
    from grpo.grpo_trainer import GRPOTrainer
    from grpo.kl_divergence import kl_k1, kl_k2, kl_k3
    from grpo.policy_base import PolicyModel, SequentialPolicy
    from grpo.reward_model_base import RewardModel
    from grpo.segments import Segments
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
    from grpo.trainer import Trainer
    from grpo.validation import NonFiniteError

__all__ = [
    "ActionBatch",
    "AdvantageEstimator",
    "Batch",
    "ClippedImportanceSurrogate",
    "ClippedSurrogate",
    "ConformanceError",
    "Decisions",
    "Evaluation",
    "Experience",
    "ExperienceCollector",
    "GRPOConfig",
    "GRPOObjective",
    "GRPOTrainer",
    "GroupRelative",
    "GroupedRewards",
    "NonFiniteError",
    "Objective",
    "PairBatch",
    "PolicyModel",
    "RewardModel",
    "SampleClippedSurrogate",
    "ScoreFunctionSurrogate",
    "Segments",
    "SequentialPolicy",
    "Surrogate",
    "TensorBatch",
    "Terms",
    "Trainer",
    "TrainerConfig",
    "batch_normalized_advantages",
    "check_policy_model",
    "check_reward_model",
    "clipped_importance_surrogate",
    "clipped_surrogate",
    "group_centered_advantages",
    "group_normalized_advantages",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "leave_one_out_advantages",
    "probability_ratio",
    "sample_probability_ratio",
    "score_function_surrogate",
]
__version__ = "0.1.0"
