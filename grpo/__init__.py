"""Reinforcement learning of any policy by GRPO and its relatives: implement two small protocols, call ``step``."""

from grpo.advantages.estimator import AdvantageEstimate, AdvantageEstimator, EstimatesReturns
from grpo.advantages.group_relative import (
    GroupRelative,
    batch_normalized_advantages,
    group_centered_advantages,
    group_normalized_advantages,
    leave_one_out_advantages,
)
from grpo.advantages.kl_rewards import KLPenalizedRewards, kl_penalized_rewards
from grpo.advantages.normalization import normalized_advantages
from grpo.advantages.temporal import (
    GeneralizedAdvantage,
    MonteCarlo,
    episode_returns,
    generalized_advantages,
    group_time_baseline,
    mean_baseline,
    rewards_to_go,
    value_baseline,
)
from grpo.collection.experience_collector import ExperienceCollector
from grpo.collection.preference_collector import CollectedPreferences, PreferenceCollector, pair_best_with_worst
from grpo.config._frozen_model import FrozenModel
from grpo.config.dpo import DPOConfig
from grpo.config.grpo import GRPOConfig
from grpo.config.ppo import PPOConfig
from grpo.config.reinforce import ReinforceConfig
from grpo.config.rollout import DynamicSampling, ImportanceCorrection, TrainerConfig
from grpo.config.schedules import LinearSchedule
from grpo.config.update import ReferenceSync, UpdateConfig
from grpo.conformance import ConformanceError, check_policy_model, check_reward_model
from grpo.data._version import VERSION
from grpo.data.action_batches import (
    ActionBatch,
    HasEpisodes,
    HasSamplingLogProbs,
    HasTruncations,
    HasTurns,
    PairBatch,
    TensorBatch,
)
from grpo.data.adapts import Adapts
from grpo.data.batches import Batch, EqualGroups
from grpo.data.decisions import Decisions, Terms
from grpo.data.errors import NonFiniteError
from grpo.data.evaluation import Evaluation, ValueEstimates
from grpo.data.experience import Experience, GroupedRewards
from grpo.data.needs import Needs
from grpo.data.preferences import PairLogProbs, Preference
from grpo.data.seeds import seeded_generator
from grpo.data.segments import Segments
from grpo.data.state import Stateful
from grpo.data.tells_settings import TellsSettings
from grpo.distributed.errors import RankError, RankLostError
from grpo.distributed.joins import JoinsWorld
from grpo.distributed.world import World
from grpo.divergences.coefficients import AdaptiveKLCoefficient, HorizonKLCoefficient, KLCoefficient
from grpo.divergences.estimators import kl_k1, kl_k2, kl_k3
from grpo.models.policy import (
    ActorCriticPolicy,
    ComputesTogether,
    EncodesGroups,
    FollowsData,
    PolicyModel,
    ReportsMetrics,
    SequentialPolicy,
    StartsFromData,
)
from grpo.models.reward_model import PartialRewards, RewardModel
from grpo.objectives.grpo_objective import GRPOObjective, Objective
from grpo.objectives.kl_penalty import KLPenaltySurrogate, kl_penalty_surrogate
from grpo.objectives.ppo_objective import PPOObjective, clipped_value_loss, value_loss
from grpo.objectives.preference_objective import (
    DPOObjective,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
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
from grpo.objectives.soft_adaptive_surrogate import SoftAdaptiveSurrogate, soft_adaptive_surrogate
from grpo.objectives.surrogates import (
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
from grpo.rollout.importance import effective_sample_size, importance_weights
from grpo.rollout.sampler import CutsEpisodes, DiffersFromPolicy, HasSampler, Restarts, Sampler
from grpo.runs._storage import CheckpointError
from grpo.runs.best import BestWeights, EarlyStopping, load_best_weights, load_latest_weights
from grpo.runs.callback import Callback, CallbackError
from grpo.runs.checkpoints import Checkpoints
from grpo.runs.evaluation import Evaluate, PolicyEvaluation, mean_with_interval, pass_at_k
from grpo.runs.run import Run
from grpo.runs.signals import RunInterrupted
from grpo.runs.state_sources import StateLoader, StateSource
from grpo.runs.tracking import LogsMetrics, SampleLog, Track
from grpo.runs.trouble import WatchForTrouble
from grpo.runs.until import Until
from grpo.training.dpo_trainer import DPOTrainer, with_reference_log_probs
from grpo.training.grpo_trainer import GRPOTrainer
from grpo.training.online_dpo_trainer import OnlineDPOTrainer
from grpo.training.policy_trainer import PolicyTrainer
from grpo.training.ppo_trainer import PPOTrainer
from grpo.training.reinforce_trainer import ReinforceTrainer
from grpo.training.trainer import Trainer

__all__ = [
    "ActionBatch",
    "ActorCriticPolicy",
    "AdaptiveKLCoefficient",
    "Adapts",
    "AdvantageEstimate",
    "AdvantageEstimator",
    "Batch",
    "BestWeights",
    "Callback",
    "CallbackError",
    "CheckpointError",
    "Checkpoints",
    "ClippedImportanceSurrogate",
    "ClippedSurrogate",
    "CollectedPreferences",
    "ComputesTogether",
    "ConformanceError",
    "CutsEpisodes",
    "DPOConfig",
    "DPOObjective",
    "DPOTrainer",
    "Decisions",
    "DiffersFromPolicy",
    "DynamicSampling",
    "EarlyStopping",
    "EncodesGroups",
    "EqualGroups",
    "EstimatesReturns",
    "Evaluate",
    "Evaluation",
    "Experience",
    "ExperienceCollector",
    "FollowsData",
    "FrozenModel",
    "GRPOConfig",
    "GRPOObjective",
    "GRPOTrainer",
    "GeneralizedAdvantage",
    "GroupRelative",
    "GroupedRewards",
    "HasEpisodes",
    "HasSampler",
    "HasSamplingLogProbs",
    "HasTruncations",
    "HasTurns",
    "HingePreferenceLoss",
    "HorizonKLCoefficient",
    "IdentityPreferenceLoss",
    "ImportanceCorrection",
    "JoinsWorld",
    "KLCoefficient",
    "KLPenalizedRewards",
    "KLPenaltySurrogate",
    "LinearSchedule",
    "LogsMetrics",
    "MonteCarlo",
    "Needs",
    "NonFiniteError",
    "Objective",
    "OnlineDPOTrainer",
    "PPOConfig",
    "PPOObjective",
    "PPOTrainer",
    "PairBatch",
    "PairLogProbs",
    "PartialRewards",
    "PolicyEvaluation",
    "PolicyModel",
    "PolicyTrainer",
    "Preference",
    "PreferenceCollector",
    "PreferenceLoss",
    "PreferenceObjective",
    "RankError",
    "RankLostError",
    "ReferenceSync",
    "ReinforceConfig",
    "ReinforceTrainer",
    "ReportsMetrics",
    "Restarts",
    "RewardModel",
    "RobustPreferenceLoss",
    "Run",
    "RunInterrupted",
    "SampleClippedSurrogate",
    "SampleLog",
    "Sampler",
    "ScoreFunctionSurrogate",
    "Segments",
    "SequentialPolicy",
    "SigmoidPreferenceLoss",
    "SoftAdaptiveSurrogate",
    "StartsFromData",
    "StateLoader",
    "StateSource",
    "Stateful",
    "Surrogate",
    "TellsSettings",
    "TensorBatch",
    "Terms",
    "Track",
    "Trainer",
    "TrainerConfig",
    "Until",
    "UpdateConfig",
    "ValueEstimates",
    "WatchForTrouble",
    "World",
    "batch_normalized_advantages",
    "check_policy_model",
    "check_reward_model",
    "clipped_importance_surrogate",
    "clipped_surrogate",
    "clipped_value_loss",
    "effective_sample_size",
    "episode_returns",
    "generalized_advantages",
    "group_centered_advantages",
    "group_normalized_advantages",
    "group_time_baseline",
    "hinge_preference_loss",
    "identity_preference_loss",
    "importance_weights",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_penalized_rewards",
    "kl_penalty_surrogate",
    "leave_one_out_advantages",
    "load_best_weights",
    "load_latest_weights",
    "mean_baseline",
    "mean_with_interval",
    "normalized_advantages",
    "pair_best_with_worst",
    "pass_at_k",
    "probability_ratio",
    "rewards_to_go",
    "robust_preference_loss",
    "sample_probability_ratio",
    "score_function_surrogate",
    "seeded_generator",
    "sigmoid_preference_loss",
    "soft_adaptive_surrogate",
    "supervised_loss",
    "value_baseline",
    "value_loss",
    "with_reference_log_probs",
]
__version__ = VERSION

for _public in [globals()[name] for name in __all__]:  # a traceback names an error as users import it
    if isinstance(_public, type) and issubclass(_public, BaseException):
        _public.__module__ = __name__
