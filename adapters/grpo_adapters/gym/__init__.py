"""Gymnasium: policies over any network, groups of episodes and fragments of vector environments."""

try:
    import gymnasium as _gymnasium  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("grpo_adapters.gym needs gymnasium: pip install 'anygrpo[gym]'") from error

from grpo_adapters.gym.columns import Columns
from grpo_adapters.gym.dict_encoder import DictEncoder
from grpo_adapters.gym.distributions import (
    ActionDistribution,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
)
from grpo_adapters.gym.episode_sampler import EpisodeSampler
from grpo_adapters.gym.evaluation import EvaluationResult, act, evaluate
from grpo_adapters.gym.fragment_sampler import FragmentSampler
from grpo_adapters.gym.image_networks import ImpalaCNN, NatureCNN
from grpo_adapters.gym.joint_distribution import JointDistribution, distribution_for
from grpo_adapters.gym.networks import MLP, ActorCriticMLP, RunningNormalization
from grpo_adapters.gym.parallel_environments import ParallelVectorEnv
from grpo_adapters.gym.policies import GymActorCritic, GymPolicy
from grpo_adapters.gym.reward_models import EnvironmentReward
from grpo_adapters.gym.rollout_files import ReplayDifference, replay, save_rollouts
from grpo_adapters.gym.spaces import ObservationEncoder, without_keys
from grpo_adapters.gym.state_dependent_exploration import StateDependentExploration
from grpo_adapters.gym.stepwise import Decided, StepwisePolicy
from grpo_adapters.gym.trajectories import Trajectory, TrajectoryBatch
from grpo_adapters.gym.vector_environments import EnvironmentFailedError
from grpo_adapters.gym.videos import record_video

__all__ = [
    "MLP",
    "ActionDistribution",
    "ActorCriticMLP",
    "Categorical",
    "Columns",
    "Decided",
    "DiagonalGaussian",
    "DictEncoder",
    "EnvironmentFailedError",
    "EnvironmentReward",
    "EpisodeSampler",
    "EvaluationResult",
    "FragmentSampler",
    "GymActorCritic",
    "GymPolicy",
    "ImpalaCNN",
    "JointDistribution",
    "MultiCategorical",
    "NatureCNN",
    "ObservationEncoder",
    "ParallelVectorEnv",
    "ReplayDifference",
    "RunningNormalization",
    "StateDependentExploration",
    "StepwisePolicy",
    "Trajectory",
    "TrajectoryBatch",
    "act",
    "distribution_for",
    "evaluate",
    "record_video",
    "replay",
    "save_rollouts",
    "without_keys",
]
