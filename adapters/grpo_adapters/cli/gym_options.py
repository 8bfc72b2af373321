"""What trainings in environments of gymnasium can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tyro
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from grpo import GRPOConfig, PPOConfig, ReinforceConfig
from grpo_adapters.cli.arguments import config_file, names_option, parse, require_fields, take_option
from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.gym_presets import preset, zoo_files
from grpo_adapters.cli.options import RunOptions, explained

ENDS = {"until_steps", "until_decisions", "until_seconds"}
END_WORDS = ("--until-steps", "--until-decisions", "--until-seconds")

AlgorithmName = Literal["ppo", "grpo", "reinforce"]
MemoryName = Literal["gru", "lstm"]


class GymOptions(RunOptions):
    """What all trainings in an environment can be told.

    Attributes:
        environment: name of the environment in gymnasium's register, CartPole-v1 for instance.
        algorithm: ppo plays fragments and has a critic; grpo compares whole episodes from the same start; reinforce
            learns from whole episodes.
        wrappers: around each environment, the innermost first: module:class, with what else the class takes as a table,
            "gymnasium.wrappers:FrameStackObservation {stack_size = 4}" for instance.
        frame_stack: how many of the last observations an observation is made of, outside of all wrappers; 1 for the
            present one alone.
        num_envs: environments that are played side by side.
        memory: what the policy remembers by from step to step, gru or lstm, where one observation does not tell enough;
            before the layers of actor and critic, which share it. None to remember nothing.
        memory_units: units of the memory.
        window: with a memory, steps of a row, over which gradients go back; None for all that was sampled of an
            environment, or of an episode. With a memory batch_size counts rows; that which an environment has of its
            own is made as many rows as hold so many steps.
        hidden_sizes: sizes of the layers of the networks.
        normalize_observations: normalise observations by their running mean and standard deviation.
        initial_std: standard deviation that continuous actions begin with, before they are squashed to their bounds; it
            is 1 where nothing is said. A car or an arm that needs force for a while is moved by 3.
        squash: squash continuous actions to their bounds by tanh; if not, clip them, as Stable-Baselines3 does.
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
    frame_stack: PositiveInt = 1
    num_envs: PositiveInt = 8
    memory: MemoryName | None = None
    memory_units: PositiveInt = 64
    window: PositiveInt | None = None
    hidden_sizes: tuple[PositiveInt, ...] = (64, 64)
    normalize_observations: bool = False
    initial_std: PositiveFloat | None = None
    squash: bool = True
    evaluate_every: NonNegativeInt = 0
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
    if settings.keys() & ENDS or names_option(rest, *END_WORDS):
        own = {name: value for name, value in own.items() if name not in ENDS}
    given = own | settings | {"algorithm": algorithm} | ({} if named is None else {"environment": named})
    required = () if named is not None else ("environment",)
    parsed = parse(options, rest, command="train gym", given=given, required=required)
    is_said = "batch_size" in settings or names_option(rest, "--batch-size")
    return parsed if is_said else _in_rows(parsed)


def _in_rows(options: GymOptions) -> GymOptions:
    """With a batch size that was meant in steps made one in rows, where the policy remembers."""
    size, length = getattr(options, "batch_size", None), options.window or getattr(options, "num_steps", None)
    if options.memory is None or size is None or length is None:
        return options
    return options.model_copy(update={"batch_size": max(1, size // length)})


def load_options(settings: Mapping[str, Any]) -> GymOptions:
    """Options from what was stored."""
    options = _options_of(settings.get("algorithm", "ppo"))
    require_fields(settings, options, "the settings of the run")
    with as_usage_errors():
        return options.model_validate(settings)


def _options_of(algorithm: Any) -> type[GymOptions]:
    if algorithm not in OPTIONS:
        raise UsageError(f"there is no algorithm {algorithm!r} for environments, expected one of {', '.join(OPTIONS)}")
    return OPTIONS[algorithm]
