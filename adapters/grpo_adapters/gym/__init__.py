"""Gymnasium: policies over any network, groups of episodes and fragments of vector environments."""

try:
    import gymnasium as _gymnasium  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("grpo_adapters.gym needs gymnasium: pip install 'anygrpo[gym]'") from error

from grpo_adapters.gym.agent_groups import AgentGroup
from grpo_adapters.gym.distributions import (
    ActionDistribution,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    distribution_for,
)
from grpo_adapters.gym.episode_sampler import EpisodeSampler
from grpo_adapters.gym.evaluation import EvaluationResult, act, evaluate
from grpo_adapters.gym.fragment_sampler import FragmentSampler
from grpo_adapters.gym.networks import MLP, ActorCriticMLP, RunningNormalization
from grpo_adapters.gym.parallel_agents import ParallelAgents
from grpo_adapters.gym.policies import GymActorCritic, GymPolicy
from grpo_adapters.gym.reward_models import EnvironmentReward
from grpo_adapters.gym.rollout_files import ReplayDifference, replay, save_rollouts
from grpo_adapters.gym.simulator_sampler import SimulatorSampler
from grpo_adapters.gym.simulators import Simulator
from grpo_adapters.gym.spaces import ObservationEncoder
from grpo_adapters.gym.stepwise import Decided, StepwisePolicy
from grpo_adapters.gym.trajectories import Rollout, Trajectory, TrajectoryBatch
from grpo_adapters.gym.vector_environments import EnvironmentFailedError
from grpo_adapters.gym.videos import record_video

__all__ = [
    "MLP",
    "ActionDistribution",
    "ActorCriticMLP",
    "AgentGroup",
    "Categorical",
    "Decided",
    "DiagonalGaussian",
    "EnvironmentFailedError",
    "EnvironmentReward",
    "EpisodeSampler",
    "EvaluationResult",
    "FragmentSampler",
    "GymActorCritic",
    "GymPolicy",
    "MultiCategorical",
    "ObservationEncoder",
    "ParallelAgents",
    "ReplayDifference",
    "Rollout",
    "RunningNormalization",
    "Simulator",
    "SimulatorSampler",
    "StepwisePolicy",
    "Trajectory",
    "TrajectoryBatch",
    "act",
    "distribution_for",
    "evaluate",
    "record_video",
    "replay",
    "save_rollouts",
]
