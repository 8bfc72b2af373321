"""Gymnasium: policies over any network, groups of episodes and fragments of vector environments."""

try:
    import gymnasium as _gymnasium  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("grpo_adapters.gym needs gymnasium: pip install 'anygrpo[gym]'") from error

from grpo_adapters.gym.actions.distributions import (
    ActionDistribution,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
)
from grpo_adapters.gym.actions.joint_distribution import JointDistribution, distribution_for
from grpo_adapters.gym.actions.state_dependent_exploration import StateDependentExploration
from grpo_adapters.gym.environments.atari import atari_environments
from grpo_adapters.gym.environments.parallel_agents import ParallelAgents
from grpo_adapters.gym.environments.parallel_environments import ParallelVectorEnv
from grpo_adapters.gym.environments.simulators import Simulator
from grpo_adapters.gym.environments.vector_environments import EnvironmentFailedError
from grpo_adapters.gym.memory.memories import GRU, LSTM, StackedUnits
from grpo_adapters.gym.memory.window_transformer import WindowTransformer
from grpo_adapters.gym.memory.windows import StoredMemory
from grpo_adapters.gym.networks.dict_encoder import DictEncoder
from grpo_adapters.gym.networks.image_networks import ImpalaCNN, NatureCNN
from grpo_adapters.gym.networks.perceptrons import MLP, ActorCriticMLP, RunningNormalization
from grpo_adapters.gym.observations.columns import Columns
from grpo_adapters.gym.observations.encoder import ObservationEncoder, without_keys
from grpo_adapters.gym.observations.frame_stacks import FrameStacks
from grpo_adapters.gym.playing.agent_groups import AgentGroup
from grpo_adapters.gym.playing.episode_sampler import EpisodeSampler
from grpo_adapters.gym.playing.evaluation import EvaluationResult, act, evaluate
from grpo_adapters.gym.playing.fragment_sampler import FragmentSampler
from grpo_adapters.gym.playing.players import Player
from grpo_adapters.gym.playing.reward_models import EnvironmentReward, NormalizedReward
from grpo_adapters.gym.playing.rollout_files import ReplayDifference, replay, save_rollouts
from grpo_adapters.gym.playing.simulator_sampler import SimulatorSampler
from grpo_adapters.gym.playing.stepwise import Decided, StepwisePolicy
from grpo_adapters.gym.playing.trajectories import Rollout, Trajectory, TrajectoryBatch
from grpo_adapters.gym.playing.videos import record_video
from grpo_adapters.gym.policies.gym_actor_critic import GymActorCritic
from grpo_adapters.gym.policies.gym_policy import GymPolicy
from grpo_adapters.gym.regressed_values import RegressedAdvantage

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
    "FrameStacks",
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
    "atari_environments",
    "distribution_for",
    "evaluate",
    "record_video",
    "replay",
    "save_rollouts",
    "without_keys",
]
