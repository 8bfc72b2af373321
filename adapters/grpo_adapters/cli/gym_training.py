"""Trainings in environments of gymnasium."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Any

import gymnasium

from grpo import BestWeights, Callback, EarlyStopping, Evaluate, Run, World
from grpo_adapters.cli.errors import as_usage_errors
from grpo_adapters.cli.gym_options import (
    GymGRPOOptions,
    GymOptions,
    GymPPOOptions,
    GymReinforceOptions,
    load_options,
    parse_options,
)
from grpo_adapters.cli.gym_trainers import (
    EVALUATION_SEED,
    FINAL_SEED,
    TRAINERS,
    environment_of,
    environments_of,
    policy_for,
)
from grpo_adapters.cli.kinds import EvaluationOptions, Kind
from grpo_adapters.gym import FragmentSampler, GymPolicy, evaluate, record_video

METRIC = "evaluation/mean_return"
EVALUATIONS = 20
MOST_ENVS = 20
GUESSED_EPISODE_LENGTH = 200


def resolve(options: GymOptions) -> GymOptions:
    """With how often to evaluate and to save, and whether the environments can be saved."""
    rest: dict[str, Any] = {}
    nth = max(1, _num_steps_of(options) // EVALUATIONS)
    rest["evaluate_every"] = options.evaluate_every or nth
    rest["checkpoint_every"] = options.checkpoint_every or nth
    if options.environments_in_state == "auto":
        rest["environments_in_state"] = _how_to_save(options)
    return options.model_copy(update=rest)


def build(options: GymOptions, more: Sequence[Callback], world: World) -> Run:
    """The run of these options."""
    environment_of(options).close()
    callbacks: list[Callback] = [Evaluate(partial(_evaluation, options), options.evaluate_every), BestWeights(METRIC)]
    if options.stop_at is not None:
        callbacks.append(EarlyStopping(METRIC, bar=options.stop_at))
    with as_usage_errors():
        trainer, states = TRAINERS[options.algorithm](options, world)
        return options.run_of(trainer, states, [*callbacks, *more])


def evaluate_run(options: GymOptions, asked: EvaluationOptions, load: Callable[[Any], None]) -> str:
    """Play episodes with a trained policy."""
    environment = environment_of(options, **({"render_mode": "human"} if asked.render else {}))
    policy = policy_for(options, environment)
    load(policy)
    try:
        played: Any = environment if asked.render else partial(environment_of, options)
        result = evaluate(policy, played, asked.episodes, seed=FINAL_SEED)
    finally:
        environment.close()
    told = [f"{options.environment}, greedy policy: return {result}"]
    if asked.video is not None:
        filmed = partial(environment_of, options, render_mode="rgb_array")
        count = min(asked.num_videos, asked.episodes)
        with as_usage_errors(gymnasium.error.Error):
            told += map(str, record_video(policy, filmed, asked.video, count, seed=FINAL_SEED))
    return "\n".join(told)


def _num_steps_of(options: GymOptions) -> int:
    """About how many steps of the trainer a run takes."""
    if options.until_steps is not None:
        return options.until_steps
    if options.until_decisions is None:
        return EVALUATIONS * 10
    if isinstance(options, GymPPOOptions):
        a_step = options.num_envs * options.num_steps
    else:
        assert isinstance(options, GymGRPOOptions | GymReinforceOptions)
        spec = gymnasium.spec(options.environment)
        length = (spec.max_episode_steps or 2 * GUESSED_EPISODE_LENGTH) // 2
        a_step = options.num_groups * options.group_size * length
    return ceil(options.until_decisions / a_step)


def _how_to_save(options: GymOptions) -> str:
    """Whether environments like these can be saved in the midst of an episode."""
    environments = environments_of(options, 1)
    sampler = FragmentSampler(environments, num_steps=2)
    try:
        sampler.sample(policy_for(options, sampler), sampler.states, 1)
        sampler.state_dict()
    except TypeError:
        return "restart"
    finally:
        environments.close()
    return "copy"


def _evaluation(options: GymOptions, policy: GymPolicy) -> dict[str, float]:
    environment, count = partial(environment_of, options), options.evaluation_episodes
    return evaluate(policy, environment, count, seed=EVALUATION_SEED, num_envs=min(count, MOST_ENVS)).to_metrics()


def _name(options: GymOptions) -> str:
    return f"{options.algorithm.upper()} in {options.environment}"


KIND = Kind(parse_options, load_options, resolve, build, evaluate_run, _name)
