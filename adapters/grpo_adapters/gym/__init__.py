"""Gymnasium: policies over any network, groups of episodes and fragments of vector environments."""

try:
    import gymnasium as _gymnasium  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("grpo_adapters.gym needs gymnasium: pip install 'anygrpo[gym]'") from error

from grpo_adapters.gym.agent_groups import AgentGroup
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
from grpo_adapters.gym.memories import GRU, LSTM, StackedUnits
from grpo_adapters.gym.networks import MLP, ActorCriticMLP, RunningNormalization
from grpo_adapters.gym.parallel_agents import ParallelAgents
from grpo_adapters.gym.parallel_environments import ParallelVectorEnv
from grpo_adapters.gym.players import Player
from grpo_adapters.gym.policies import GymActorCritic, GymPolicy
from grpo_adapters.gym.regressed_values import RegressedAdvantage
from grpo_adapters.gym.reward_models import EnvironmentReward, NormalizedReward
from grpo_adapters.gym.rollout_files import ReplayDifference, replay, save_rollouts
from grpo_adapters.gym.simulator_sampler import SimulatorSampler
from grpo_adapters.gym.simulators import Simulator
from grpo_adapters.gym.spaces import ObservationEncoder, without_keys
from grpo_adapters.gym.state_dependent_exploration import StateDependentExploration
from grpo_adapters.gym.stepwise import Decided, StepwisePolicy
from grpo_adapters.gym.trajectories import Rollout, Trajectory, TrajectoryBatch
from grpo_adapters.gym.vector_environments import EnvironmentFailedError
from grpo_adapters.gym.videos import record_video
from grpo_adapters.gym.window_transformer import WindowTransformer
from grpo_adapters.gym.windows import StoredMemory

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "ActionDistribution",
    "ActorCriticMLP",
    "AgentGroup",
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
    "NormalizedReward",
    "ObservationEncoder",
    "ParallelAgents",
    "ParallelVectorEnv",
    "Player",
    "RegressedAdvantage",
    "ReplayDifference",
    "Rollout",
    "RunningNormalization",
    "Simulator",
    "SimulatorSampler",
    "StackedUnits",
    "StateDependentExploration",
    "StepwisePolicy",
    "StoredMemory",
    "Trajectory",
    "TrajectoryBatch",
    "WindowTransformer",
    "act",
    "distribution_for",
    "evaluate",
    "record_video",
    "replay",
    "save_rollouts",
    "without_keys",
]
