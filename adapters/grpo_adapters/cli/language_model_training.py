"""Trainings of language models."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from peft import LoraConfig
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from grpo import (
    BestWeights,
    Callback,
    Evaluate,
    GRPOConfig,
    GRPOTrainer,
    PolicyEvaluation,
    Run,
    SampleLog,
    StateLoader,
    World,
)
from grpo_adapters.cli.arguments import config_file, names_option, parse, require_fields
from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.kinds import EvaluationOptions, Kind
from grpo_adapters.cli.module_training import attribute
from grpo_adapters.cli.options import RunOptions, explained
from grpo_adapters.huggingface import CausalLMPolicy, Completion, FunctionReward, SamplingConfig

LEARNING_RATE, LEARNING_RATE_OF_LORA = 1e-6, 1e-5
METRIC = "evaluation/reward"
PARTS_OF_A_RUN = 20
MODEL = "model"


@explained
class LanguageModelOptions(GRPOConfig, SamplingConfig, RunOptions):
    """Train a causal language model by GRPO on prompts and reward functions.

    Attributes:
        model: name on the Hugging Face hub, or folder.
        data: file of JSON lines, rows with a column prompt, a text or chat messages, and whatever rewards need.
        reward: reward functions, file.py:function or package.module:function; their values are added.
        reward_weights: weight of each function; none for 1 each.
        prompts_per_step: prompts in a step, each with a group of completions.
        held_out: file like data, of prompts that are not trained on; on them the most probable completions are scored.
        evaluate_every: steps between two evaluations, where there is held_out; 0 for a twentieth of the run.
        lora_rank: train adapters of this rank; None for all parameters.
        autocast_bfloat16: compute in bfloat16.
        gradient_checkpointing: keep less for the backward pass, and compute it again.
        trust_remote_code: execute code that comes with a model from the hub.
        samples_every: steps between those whose first completions are written to samples.jsonl.
        learning_rate: of the optimizer, or a schedule; where nothing is said 1e-6, and 1e-5 with lora_rank.
        kl_coefficient: weight of the divergence from the model as it was; None for none.
        until_steps: end after so many steps; where no end is given, after one pass over the data.
        seed: of the adapters, what is sampled, and the order of rows.
    """

    model: tyro.conf.Positional[str]
    data: Path
    reward: tuple[str, ...] = ()
    reward_weights: tuple[float, ...] = ()
    prompts_per_step: PositiveInt = 8
    held_out: Path | None = None
    evaluate_every: NonNegativeInt = 0
    lora_rank: PositiveInt | None = None
    autocast_bfloat16: bool = False
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    samples_every: PositiveInt = 10
    kl_coefficient: NonNegativeFloat | None = None


def parse_options(words: Sequence[str]) -> LanguageModelOptions:
    """Options from the words behind ``train lm``."""
    settings, rest = config_file(words)
    settings.pop("kind", None)
    require_fields(settings, LanguageModelOptions, "the file of --config")
    adapts = settings.get("lora_rank") is not None or names_option(rest, "--lora-rank")
    given = {"learning_rate": LEARNING_RATE_OF_LORA if adapts else LEARNING_RATE} | settings
    required = [name for name in ("model", "data") if name not in settings]
    return parse(LanguageModelOptions, rest, command="train lm", given=given, required=required)


def load_options(settings: Mapping[str, Any]) -> LanguageModelOptions:
    """Options from what was stored."""
    require_fields(settings, LanguageModelOptions, "the settings of the run")
    with as_usage_errors():
        return LanguageModelOptions.model_validate(settings)


def resolve(options: LanguageModelOptions) -> LanguageModelOptions:
    """With the end of the run, how often to evaluate and to save, and files from wherever it is called."""
    if not options.reward:
        raise UsageError("the completions need a reward: give --reward file.py:function, one or several")
    until_steps = options.until_steps
    if until_steps is None and options.until_decisions is None and options.until_seconds is None:
        until_steps = max(1, len(read_rows(options.data)) // options.prompts_per_step)
    nth = max(1, (until_steps or 10 * PARTS_OF_A_RUN) // PARTS_OF_A_RUN)
    files = {name: path.resolve() for name in ("data", "held_out") if (path := getattr(options, name)) is not None}
    return options.model_copy(
        update={
            **files,
            "model": str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model,
            "reward": tuple(map(_from_anywhere, options.reward)),
            "until_steps": until_steps,
            "evaluate_every": options.evaluate_every or nth,
            "checkpoint_every": options.checkpoint_every or nth,
        }
    )


def build(options: LanguageModelOptions, more: Sequence[Callback], world: World) -> Run:
    """The run of these options."""
    rows = read_rows(options.data)
    if len(rows) < options.prompts_per_step:
        raise UsageError(
            f"{options.data} has {len(rows)} rows, fewer than --prompts-per-step {options.prompts_per_step}: give more "
            f"rows, or take fewer of them in a step"
        )
    callbacks: list[Callback] = [SampleLog(options.samples_every, describe=_texts)]
    if options.held_out is not None:
        callbacks += [Evaluate(_evaluation(options), options.evaluate_every), BestWeights(METRIC)]
    reward = _reward(options)
    with as_usage_errors():
        policy = _policy(options)
        config = GRPOConfig(**options.part(GRPOConfig))
        reference = policy.reference() if config.kl_coefficient else None
        trainer = GRPOTrainer(config, policy, reward, reference, world=world)
        states = StateLoader(rows, options.prompts_per_step, seed=options.seed)
        return options.run_of(trainer, states, [*callbacks, SavesModel(), *more])


def evaluate_run(options: LanguageModelOptions, asked: EvaluationOptions, load: Callable[[Any], None]) -> str:
    """Score the most probable completions of a trained model on prompts that were held out."""
    if options.held_out is None:
        raise UsageError("the run has no prompts to evaluate on: train it with --held-out rows.jsonl")
    with as_usage_errors():
        policy = _policy(options)
    load(policy)
    metrics = _evaluation(options)(policy)
    return (
        f"{options.model}, most probable completions of {options.held_out.name}: reward {metrics['reward']:.4g}, "
        f"95% interval of the mean [{metrics['reward_low']:.4g}, {metrics['reward_high']:.4g}]"
    )


def _evaluation(options: LanguageModelOptions) -> PolicyEvaluation:
    """The reward of the most probable completions of prompts that were held out."""
    assert options.held_out is not None
    return PolicyEvaluation(read_rows(options.held_out), _reward(options), generation_kwargs={"top_k": 1})


class SavesModel(Callback):
    """Writes the model and its tokenizer into the run's folder when the run is over."""

    def end(self, run: Run) -> None:
        """Write them."""
        assert run.folder is not None
        if run.world.rank == 0:
            run.trainer.policy.save_pretrained(run.folder / MODEL)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines.

    Raises:
        UsageError: if it cannot be read, or a row has no prompt.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() also parts texts, at U+2028 for instance
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"line {number} of {path} is no JSON ({error.msg}): {line[:60]}") from error
        if not isinstance(row, dict) or "prompt" not in row:
            raise UsageError(f'line {number} of {path} is no row {{"prompt": ...}}: {line[:60]}')
        rows.append(row)
    if not rows:
        raise UsageError(f"{path} has no rows")
    return rows


def _policy(options: LanguageModelOptions) -> CausalLMPolicy:
    adapters = None
    if options.lora_rank is not None:
        torch.manual_seed(options.seed)  # adapters begin at random
        rank = options.lora_rank
        adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set", UserWarning)  # peft sets it as each layer needs it
        return CausalLMPolicy(
            options.model,
            sampling=SamplingConfig(**options.part(SamplingConfig)),
            peft_config=adapters,
            autocast_dtype=torch.bfloat16 if options.autocast_bfloat16 else None,
            gradient_checkpointing=options.gradient_checkpointing,
            trust_remote_code=options.trust_remote_code,
            seed=options.seed,
        )


def _reward(options: LanguageModelOptions) -> FunctionReward:
    functions = [attribute(target) for target in options.reward]
    with as_usage_errors():
        return FunctionReward(functions, weights=list(options.reward_weights) or None)


def _from_anywhere(target: str) -> str:
    file, _, name = target.rpartition(":")
    return f"{Path(file).resolve()}:{name}" if file.endswith(".py") else target


def _texts(state: Any, action: Completion) -> tuple[str, str]:
    prompt = state["prompt"] if isinstance(state, Mapping) else state
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False), action.text


def _name(options: LanguageModelOptions) -> str:
    return f"GRPO of {options.model}"


KIND = Kind(parse_options, load_options, resolve, build, evaluate_run, _name)
