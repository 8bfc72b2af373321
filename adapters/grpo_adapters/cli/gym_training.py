"""Trainings in environments of gymnasium."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any, Literal

import gymnasium
import tyro
from pydantic import Field, PositiveFloat, PositiveInt

from grpo import (
    AdvantageEstimator,
    BestWeights,
    Callback,
    EarlyStopping,
    Evaluate,
    GRPOConfig,
    GRPOTrainer,
    MonteCarlo,
    PPOConfig,
    PPOTrainer,
    ReinforceConfig,
    ReinforceTrainer,
    Run,
    World,
    group_time_baseline,
)
from grpo_adapters.cli.arguments import config_file, parse, require_fields, take_option
from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.gym_environments import make, make_several
from grpo_adapters.cli.gym_presets import preset, zoo_files
from grpo_adapters.cli.kinds import EvaluationOptions, Kind
from grpo_adapters.cli.options import RunOptions, explained
from grpo_adapters.gym import (
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
    evaluate,
    record_video,
)
from grpo_adapters.gym.observations.encoder import spaces_of

EVALUATION_SEED, FINAL_SEED = 1_000_000_000, 2_000_000_000
SEEDS_OF_A_RUN = 1_000_000
METRIC = "evaluation/mean_return"
EVALUATIONS = 20
MOST_ENVS = 20
GUESSED_EPISODE_LENGTH = 200
ENDS = {"until_steps", "until_decisions", "until_seconds"}
END_WORDS = ("--until-steps", "--until-decisions", "--until-seconds")

AlgorithmName = Literal["ppo", "grpo", "reinforce"]


class GymOptions(RunOptions):
    """What all trainings in an environment can be told.

    Attributes:
        environment: name of the environment in gymnasium's register, CartPole-v1 for instance.
        algorithm: ppo plays fragments and has a critic; grpo compares whole episodes from the same start; reinforce
            learns from whole episodes.
        wrappers: around each environment, the innermost first: module:class, with what else the class takes as a table,
            "gymnasium.wrappers:FrameStackObservation {stack_size = 4}" for instance.
        num_envs: environments that are played side by side.
        hidden_sizes: sizes of the layers of the networks.
        normalize_observations: normalise observations by their running mean and standard deviation.
        initial_std: standard deviation that continuous actions begin with, before they are squashed to their bounds; it
            is 1 where nothing is said. A car or an arm that needs force for a while is moved by 3.
        evaluate_every: steps between two evaluations of the greedy policy, in an environment of its own; 0 for about a
            twentieth of the run.
        evaluation_episodes: episodes of an evaluation.
        stop_at: end once the mean return of an evaluation has reached this; None never to.
        environments_in_state: copy saves the environments in the midst of their episodes; restart begins new episodes
            at each checkpoint, for environments that cannot be saved, as those of Box2D; auto finds out.
        num_threads: of PyTorch on the CPU; small networks run fastest on one.
        seed: of the weights, the environments, what is sampled, and the order of rows.
    """

    environment: tyro.conf.Positional[str]
    algorithm: AlgorithmName = "ppo"
    wrappers: tuple[str, ...] = ()
    num_envs: PositiveInt = 8
    hidden_sizes: tuple[PositiveInt, ...] = (64, 64)
    normalize_observations: bool = False
    initial_std: PositiveFloat | None = None
    evaluate_every: int = 0
    evaluation_episodes: PositiveInt = 20
    stop_at: float | None = None
    environments_in_state: Literal["auto", "copy", "restart"] = "auto"
    num_threads: PositiveInt | None = 1


@explained
class GymPPOOptions(PPOConfig, GymOptions):
    """Train a policy and a critic in an environment by PPO.

    Attributes:
        num_steps: steps in each environment between two updates.
        normalize_rewards: learn from rewards divided by the running standard deviation of the discounted return; the
            returns that are reported are of rewards as they are.
        seed: of the weights, the environments, what is sampled, and the order of rows.
    """

    num_steps: PositiveInt = 256
    normalize_rewards: bool = False


@explained
class GymGRPOOptions(GRPOConfig, GymOptions):
    """Train a policy in an environment by GRPO, on groups of episodes from the same start.

    Attributes:
        num_groups: starts in a step, each with a group of episodes.
        credit: what a decision is compared with. episode: its whole episode with those of its group; time: what came
            after it with what came after the same step in its group; state: with what came after like states in all
            episodes.
        discount: γ of what came after a decision, with the credit time or state.
        gae_lambda: λ of generalised advantage estimation, with the credit state; 1 trusts the rewards.
        seed: of the weights, the environments, what is sampled, and the order of rows.
    """

    num_groups: PositiveInt = 4
    credit: Literal["episode", "time", "state"] = "episode"
    discount: float = Field(1.0, ge=0, le=1)
    gae_lambda: float = Field(1.0, ge=0, le=1)


@explained
class GymReinforceOptions(ReinforceConfig, GymOptions):
    """Train a policy in an environment by REINFORCE.

    Attributes:
        num_groups: starts in a step, each with a group of episodes.
        seed: of the weights, the environments, what is sampled, and the order of rows.
    """

    num_groups: PositiveInt = 16


OPTIONS: dict[str, type[GymOptions]] = {
    "ppo": GymPPOOptions,
    "grpo": GymGRPOOptions,
    "reinforce": GymReinforceOptions,
}


def parse_options(words: Sequence[str]) -> GymOptions:
    """Options from the words behind ``train gym``; presets first, a file of settings over them, words over all."""
    settings, rest = config_file(words, zoo_files())
    settings.pop("kind", None)
    algorithm = take_option(rest, "algorithm")[0] or settings.get("algorithm", "ppo")
    options = _options_of(algorithm)
    require_fields(settings, options, "the file of --config")
    named = rest[0] if rest and not rest[0].startswith("-") else settings.get("environment")
    own = preset(named or "", algorithm)
    if settings.keys() & ENDS or any(word.startswith(END_WORDS) for word in rest):
        own = {name: value for name, value in own.items() if name not in ENDS}
    given = own | settings | {"algorithm": algorithm} | ({} if named is None else {"environment": named})
    required = () if named is not None else ("environment",)
    return parse(options, rest, command="train gym", given=given, required=required)


def load_options(settings: Mapping[str, Any]) -> GymOptions:
    """Options from what was stored."""
    options = _options_of(settings.get("algorithm", "ppo"))
    require_fields(settings, options, "the settings of the run")
    with as_usage_errors():
        return options.model_validate(settings)


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
    _make(options).close()
    callbacks: list[Callback] = [Evaluate(partial(_evaluation, options), options.evaluate_every), BestWeights(METRIC)]
    if options.stop_at is not None:
        callbacks.append(EarlyStopping(METRIC, bar=options.stop_at))
    with as_usage_errors():
        trainer, states = TRAINERS[options.algorithm](options, world)
        return options.run_of(trainer, states, [*callbacks, *more])


def evaluate_run(options: GymOptions, asked: EvaluationOptions, load: Callable[[Any], None]) -> str:
    """Play episodes with a trained policy."""
    environment = _make(options, **({"render_mode": "human"} if asked.render else {}))
    policy = _policy(options, environment)
    load(policy)
    try:
        played: Any = environment if asked.render else partial(_make, options)
        result = evaluate(policy, played, asked.episodes, seed=FINAL_SEED)
    finally:
        environment.close()
    told = [f"{options.environment}, greedy policy: return {result}"]
    if asked.video is not None:
        filmed = partial(_make, options, render_mode="rgb_array")
        count = min(asked.num_videos, asked.episodes)
        with as_usage_errors(gymnasium.error.Error):
            told += map(str, record_video(policy, filmed, asked.video, count, seed=FINAL_SEED))
    return "\n".join(told)


def _options_of(algorithm: Any) -> type[GymOptions]:
    if algorithm not in OPTIONS:
        raise UsageError(f"there is no algorithm {algorithm!r} for environments, expected one of {', '.join(OPTIONS)}")
    return OPTIONS[algorithm]


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
    environments = _environments(options, 1)
    sampler = FragmentSampler(environments, num_steps=2)
    try:
        sampler.sample(_policy(options, sampler), sampler.states, 1)
        sampler.state_dict()
    except TypeError:
        return "restart"
    finally:
        environments.close()
    return "copy"


def _make(options: GymOptions, **settings: Any) -> gymnasium.Env[Any, Any]:
    return make(options.environment, options.wrappers, **settings)


def _environments(options: GymOptions, count: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    return make_several(options.environment, options.wrappers, count)


def _policy(options: GymOptions, environment: Any) -> Any:
    kind = GymActorCritic if options.algorithm == "ppo" else GymPolicy
    return kind(
        environment,
        hidden_sizes=options.hidden_sizes,
        distribution=_distribution(options, environment),
        normalize_observations=options.normalize_observations,
        seed=options.seed,
    )


def _distribution(options: GymOptions, environment: Any) -> Callable[[Any], ActionDistribution]:
    """What outputs mean, with the standard deviation that was asked for, where one was."""
    if options.initial_std is None:
        return distribution_for
    space = spaces_of(environment)[1]
    if not isinstance(space, gymnasium.spaces.Box):
        raise UsageError(f"initial_std is {options.initial_std:g}, but the actions are not continuous: {space}")
    return partial(DiagonalGaussian, initial_std=options.initial_std)


def _ppo(options: GymPPOOptions, world: World) -> tuple[Any, Any]:
    own = world.part_of(options.num_envs)
    if options.num_envs < world.size:
        raise UsageError(f"num_envs is {options.num_envs}, expected at least one for each of {world.size} processes")
    sampler = FragmentSampler(
        _environments(options, own.stop - own.start),
        options.num_steps,
        seed=options.seed * SEEDS_OF_A_RUN + own.start,
        environments_in_state="restart" if options.environments_in_state == "restart" else "copy",
    )
    policy = _policy(options, sampler)
    reward = NormalizedReward(options.discount) if options.normalize_rewards else EnvironmentReward()
    return PPOTrainer(PPOConfig(**options.part(PPOConfig)), policy, reward, world=world), sampler.states


def _grpo(options: GymGRPOOptions, world: World) -> tuple[Any, Any]:
    policy = _policy(options, _episodes(options))
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
    policy = _policy(options, _episodes(options))
    config = ReinforceConfig(**options.part(ReinforceConfig))
    return ReinforceTrainer(config, policy, EnvironmentReward(), world=world), _starts(options, options.num_groups)


TRAINERS: dict[str, Callable[[Any, World], tuple[Any, Any]]] = {"ppo": _ppo, "grpo": _grpo, "reinforce": _reinforce}


def _episodes(options: GymOptions) -> EpisodeSampler:
    return EpisodeSampler(partial(_make, options), options.num_envs)


def _starts(options: GymOptions, count: int) -> Callable[[int], list[int]]:
    """The seeds that the episodes of a step begin with, which no other step has."""
    first = options.seed * SEEDS_OF_A_RUN
    return lambda step: list(range(first + step * count, first + (step + 1) * count))


def _evaluation(options: GymOptions, policy: GymPolicy) -> dict[str, float]:
    environment, count = partial(_make, options), options.evaluation_episodes
    return evaluate(policy, environment, count, seed=EVALUATION_SEED, num_envs=min(count, MOST_ENVS)).to_metrics()


def _name(options: GymOptions) -> str:
    return f"{options.algorithm.upper()} in {options.environment}"


KIND = Kind(parse_options, load_options, resolve, build, evaluate_run, _name)
