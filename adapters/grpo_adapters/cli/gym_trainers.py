"""Trainers of policies in environments of gymnasium, from options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import torch
from torch import nn

from grpo import (
    AdvantageEstimator,
    GRPOConfig,
    GRPOTrainer,
    MonteCarlo,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    World,
    group_time_baseline,
)
from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.gym_environments import make, make_several
from grpo_adapters.cli.gym_options import GymGRPOOptions, GymOptions, GymPPOOptions, GymReinforceOptions
from grpo_adapters.gym import (
    GRU,
    LSTM,
    ActionDistribution,
    DiagonalGaussian,
    EnvironmentReward,
    EpisodeSampler,
    FragmentSampler,
    GymActorCritic,
    GymPolicy,
    NormalizedReward,
    RegressedAdvantage,
    distribution_for,
)
from grpo_adapters.gym.observations.encoder import spaces_of
from grpo_adapters.gym.policies.unit_shapes import probed_units

SEEDS_OF_A_RUN = 1_000_000
EVALUATION_SEED, FINAL_SEED = 1_000_000_000, 2_000_000_000
MEMORIES = {"gru": GRU, "lstm": LSTM}


def environment_of(options: GymOptions, **settings: Any) -> gymnasium.Env[Any, Any]:
    """The environment of these options in its wrappers."""
    return make(options.environment, _wrappers(options), **settings)


def environments_of(options: GymOptions, count: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """So many of these environments side by side."""
    return make_several(options.environment, _wrappers(options), count)


def _wrappers(options: GymOptions) -> tuple[str, ...]:
    if options.frame_stack == 1:
        return options.wrappers
    return (*options.wrappers, f"gymnasium.wrappers:FrameStackObservation {{stack_size = {options.frame_stack}}}")


def policy_for(options: GymOptions, environment: Any) -> Any:
    """A policy for an environment, or for the environments of a sampler."""
    kind = GymActorCritic if options.algorithm == "ppo" else GymPolicy
    return kind(
        environment,
        **_memory(options, environment),
        hidden_sizes=options.hidden_sizes,
        distribution=_distribution(options, environment),
        normalize_observations=options.normalize_observations,
        seed=options.seed,
    )


def _memory(options: GymOptions, environment: Any) -> dict[str, Any]:
    """What a policy that remembers is made with besides, nothing where none was asked for."""
    if options.memory is None:
        if options.window is not None:
            raise UsageError(f"window is {options.window}, but the policy remembers nothing: say --memory gru, or lstm")
        return {}
    shape = probed_units(GymPolicy(environment)).shape[1:]
    torch.manual_seed(options.seed)  # memories begin at random
    memory = MEMORIES[options.memory](shape.numel(), options.memory_units)
    return {"memory": memory, "window": options.window, "trunk": nn.Flatten() if len(shape) > 1 else None}


def _distribution(options: GymOptions, environment: Any) -> Callable[[Any], ActionDistribution]:
    """What outputs mean, with what was asked for of continuous actions, where something was."""
    asked: dict[str, Any] = {"initial_std": options.initial_std, "squash": None if options.squash else False}
    settings = {name: value for name, value in asked.items() if value is not None}
    if not settings:
        return distribution_for
    space = spaces_of(environment)[1]
    if not isinstance(space, gymnasium.spaces.Box):
        told = ", ".join(f"{name} is {value}" for name, value in settings.items())
        raise UsageError(f"{told}, but the actions are not continuous: {space}")
    return partial(DiagonalGaussian, **settings)


def _ppo(options: GymPPOOptions, world: World) -> tuple[Any, Any]:
    own = world.part_of(options.num_envs)
    if options.num_envs < world.size:
        raise UsageError(f"num_envs is {options.num_envs}, expected at least one for each of {world.size} processes")
    sampler = FragmentSampler(
        environments_of(options, own.stop - own.start),
        options.num_steps,
        seed=first_seed(options.seed) + own.start,
        environments_in_state="restart" if options.environments_in_state == "restart" else "copy",
    )
    policy = policy_for(options, sampler)
    reward = NormalizedReward(options.discount) if options.normalize_rewards else EnvironmentReward()
    return PPOTrainer(PPOConfig(**options.part(PPOConfig)), policy, reward, world=world), sampler.states


def _grpo(options: GymGRPOOptions, world: World) -> tuple[Any, Any]:
    policy = policy_for(options, _episodes(options))
    config = GRPOConfig(**options.part(GRPOConfig))
    trainer = GRPOTrainer(config, policy, EnvironmentReward(), advantage_estimator=_credit(options), world=world)
    return trainer, _starts(options, options.num_groups)


def _credit(options: GymGRPOOptions) -> AdvantageEstimator | None:
    if options.credit == "state":
        return RegressedAdvantage(discount=options.discount, gae_lambda=options.gae_lambda)
    if options.gae_lambda != 1:
        raise UsageError(f"gae_lambda is {options.gae_lambda:g}, which only the credit state has: say --credit state")
    if options.credit == "time":
        return MonteCarlo(discount=options.discount, baseline=group_time_baseline)
    if options.discount != 1:
        raise UsageError(
            f"discount is {options.discount:g}, but the credit of whole episodes has none: say --credit time, or state"
        )
    return None


def _reinforce(options: GymReinforceOptions, world: World) -> tuple[Any, Any]:
    policy = policy_for(options, _episodes(options))
    config = ReinforceConfig(**options.part(ReinforceConfig))
    return ReinforceTrainer(config, policy, EnvironmentReward(), world=world), _starts(options, options.num_groups)


TRAINERS: dict[str, Callable[[Any, World], tuple[Any, Any]]] = {"ppo": _ppo, "grpo": _grpo, "reinforce": _reinforce}


def _episodes(options: GymOptions) -> EpisodeSampler:
    return EpisodeSampler(partial(environment_of, options), options.num_envs)


def first_seed(seed: int) -> int:
    """The first of a million seeds for the episodes of a run, which no other run has, nor any evaluation.

    Example:
        >>> first_seed(3), first_seed(1000), first_seed(1001)
        (3000000, 1001000000, 1002000000)
    """
    for evaluations in (EVALUATION_SEED, FINAL_SEED):
        seed += seed * SEEDS_OF_A_RUN >= evaluations
    return seed * SEEDS_OF_A_RUN


def _starts(options: GymOptions, count: int) -> Callable[[int], list[int]]:
    """The seeds that the episodes of a step begin with, which no other step has."""
    first = first_seed(options.seed)
    return lambda step: list(range(first + step * count, first + (step + 1) * count))
