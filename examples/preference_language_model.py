"""DPO of a language model: from pairs of a preferred and a less preferred answer, without a reward model.

Without --model nothing is downloaded: a small transformer is made and shown a few sums, and then answers some rightly,
most of them wrongly. Pairs of a right and a wrong answer, both its own, are all that DPO learns from; pairs of problems
that are never trained on tell whether it has found out what the right ones have in common. (A sum is written from its
last digit to its first: 58+67=521.) With --model it is any
causal language model from the Hugging Face hub or a folder, and a preference dataset:

    python examples/preference_language_model.py --model gpt2 --dataset preferences.jsonl --lora

To tell a chosen from a rejected answer is less than to give the chosen one: DPO may make both less likely, if only the
rejected one falls further. With --beta 0.1 that happens, with --sft-coefficient 1 it does not. So the table has the
log-probs of both, and how many sums are answered rightly.

The defaults below are those of arithmetic. --model has others, which --model NAME --help shows.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import language_model
from arithmetic import LONGEST_ANSWER, Row, accuracy, exact_answer
from grpo import (
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    LinearSchedule,
    Preference,
    PreferenceCollector,
    PreferenceLoss,
    RobustPreferenceLoss,
    SigmoidPreferenceLoss,
    with_reference_log_probs,
)
from grpo_adapters.huggingface import CausalLMPolicy, FunctionReward, SamplingConfig, preferences_of
from language_model_common import (
    LORA_FACTOR,
    console,
    errors_without_traceback,
    load_rows,
    lora_config,
    prompt_text,
    read_json_lines,
    share_trained,
)

Pairs = list[Preference[Any, Any]]

COUNTS = ("most_rows", "epochs", "pairs_per_step", "micro_batch_size", "new_tokens", "lora_rank", "evaluate_every")
ANSWERS = {"chosen", "rejected"}
PROBLEMS_PER_CALL = 500
SAMPLES = 8
PROMPTS_SHOWN = 4
LONGEST_SHOWN = 300


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    model: str | None = None
    """Name on the hub or folder of the model to train; without one, a small one learns to add."""
    dataset: str | None = None
    """Name on the hub, folder, or .jsonl file with columns prompt, chosen, rejected; needs --model."""
    split: str = "train"
    """Split of the dataset to use, where it has any."""
    most_rows: int | None = None
    """Use so many rows of the dataset at the most, the first ones."""
    held_out: float = 0.1
    """Share of the dataset's pairs that are never trained on."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """DPO's own loss, SLiC's, IPO's, or that of robust DPO for labels of which some are wrong."""
    beta: float = 1.0
    """How near to stay to the model at the start: the larger, the nearer."""
    label_smoothing: float = 0.0
    """Share of the labels that is taken to be wrong, for the losses sigmoid and robust."""
    sft_coefficient: float = 0.0
    """Weight of the chosen answers' own likelihood in the loss."""
    reference_free: bool = False
    """Compare with a uniform distribution, and not with the model at the start."""
    epochs: int = 10
    """Times that each pair is trained on."""
    pairs_per_step: int = 256
    """Pairs in an optimiser step."""
    micro_batch_size: int | None = None
    """Pairs in a backward pass: fewer take less memory and change no result."""
    max_length: int | None = None
    """Tokens of prompt and answer at which an answer is cut; without, those too long for the model are an error."""
    new_tokens: int = LONGEST_ANSWER
    """Tokens at which a completion is cut that is sampled to be shown."""
    learning_rate: float = 1e-3
    """Learning rate to start from, it falls to 0; the default is ten times as high with --lora."""
    lora: bool = False
    """Train adapters of low rank, and leave the model's own parameters as they are."""
    lora_rank: int = 2
    """Rank of the adapters."""
    device: str | None = None
    """Where to compute, "cuda" or "cpu"; by default on a GPU if there is one."""
    evaluate_every: int = 20
    """Optimiser steps between two evaluations on the held-out pairs."""
    seed: int = 0
    """Of everything that is random."""
    save: Path = Path("outputs/preference_language_model")
    """Folder for the trained model or its adapters, and for what arithmetic starts from."""


ARITHMETIC = Options()
WITH_MODEL = replace(
    ARITHMETIC,
    beta=0.1,
    epochs=1,
    pairs_per_step=32,
    micro_batch_size=4,
    new_tokens=64,
    learning_rate=1e-6,
    lora_rank=16,
)
"""Defaults with --model."""


@dataclass(frozen=True)
class Task:
    """What is to be learnt.

    Attributes:
        policy: the model to train.
        pairs: what it is trained on.
        held_out: pairs of other prompts.
        problems: other problems with their answers, to be asked; none with a dataset.
    """

    policy: CausalLMPolicy
    pairs: Pairs
    held_out: Pairs
    problems: Sequence[Row] = ()


def options_from(arguments: Sequence[str]) -> Options:
    """The options that a command line gives, with the defaults that belong to them."""
    given = {argument.partition("=")[0] for argument in arguments}
    defaults = WITH_MODEL if "--model" in given else ARITHMETIC
    if "--lora" in given:
        defaults = replace(defaults, learning_rate=LORA_FACTOR * defaults.learning_rate)
    return tyro.cli(Options, description=__doc__, args=arguments, default=defaults)


def check(options: Options) -> None:
    """Refuse what does not go together."""
    for name in COUNTS:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{option(name)} is {value}, expected at least 1")
    for name in ("beta", "learning_rate"):
        if not 0 < getattr(options, name) < inf:
            raise ValueError(f"{option(name)} is {getattr(options, name)}, expected a finite number above 0")
    if not 0 <= options.sft_coefficient < inf:
        raise ValueError(f"--sft-coefficient is {options.sft_coefficient}, expected a finite number, 0 or more")
    if options.seed < 0:
        raise ValueError(f"--seed is {options.seed}, expected 0 or more")
    if not 0 <= options.label_smoothing < 0.5:
        raise ValueError(f"--label-smoothing is {options.label_smoothing}, expected a share from 0 to below 0.5")
    if not 0 < options.held_out < 1:
        raise ValueError(f"--held-out is {options.held_out}, expected a share between 0 and 1")
    if options.model is None and options.dataset is not None:
        raise ValueError("--dataset needs --model: the small model knows nothing but sums")
    if options.model is not None and options.dataset is None:
        raise ValueError("--model needs pairs: give --dataset NAME, a folder, or a .jsonl file")
    if options.label_smoothing > 0 and options.loss in ("hinge", "ipo"):
        raise ValueError(f"--label-smoothing is for --loss sigmoid and robust, --loss {options.loss} has none")
    if options.label_smoothing == 0 and options.loss == "robust":
        raise ValueError(
            "--loss robust needs --label-smoothing, the share of the labels that is wrong: without, it is sigmoid"
        )


def option(name: str) -> str:
    """An option as it is typed."""
    return f"--{name.replace('_', '-')}"


def arithmetic_task(options: Options) -> Task:
    """Sums of two numbers, and pairs of a right and a wrong answer that a small model gave."""
    start = language_model.arithmetic_task(language_model.Options(seed=options.seed, output=options.save))
    policy = make_policy(start.model, options)
    with console.status("pairs of its own answers"):
        pairs, held_out = (own_pairs(policy, rows) for rows in (start.rows, start.held_out))
    return Task(policy, pairs, held_out, start.held_out)


def own_pairs(policy: CausalLMPolicy, rows: Sequence[Row]) -> Pairs:
    """A right and a wrong answer of the policy's own to each problem that it gave both to."""
    collector = PreferenceCollector(policy, FunctionReward(exact_answer), group_size=SAMPLES)
    parts = (rows[first : first + PROBLEMS_PER_CALL] for first in range(0, len(rows), PROBLEMS_PER_CALL))
    return [pair for part in parts for pair in collector.collect(part).preferences]


def dataset_task(options: Options) -> Task:
    """The model and the pairs that the options name."""
    assert options.model is not None
    assert options.dataset is not None
    rows = read_rows(options.dataset, options.split, options.most_rows)
    policy = make_policy(options.model, options)
    pairs = preferences_of(rows, policy, max_length=options.max_length)
    random.Random(options.seed).shuffle(pairs)  # noqa: S311
    count = ceil(options.held_out * len(pairs))
    if not count < len(pairs):
        raise ValueError(
            f"{options.dataset} has {len(pairs)} pairs that can be used, of which --held-out {options.held_out} leaves "
            f"none to train on: give more rows, or a longer --max-length"
        )
    return Task(policy, pairs[count:], pairs[:count])


def read_rows(dataset: str, split: str, most: int | None = None) -> list[dict[str, Any]]:
    """The rows of a dataset, without those whose answers are the same."""
    path = Path(dataset).expanduser()
    rows = read_json_lines(path, ANSWERS) if path.suffix == ".jsonl" else load_rows(dataset, path, split)
    rows = rows[:most]
    if not rows:
        raise ValueError(f"{dataset} has no row, expected rows with columns prompt, chosen and rejected")
    different = [row for row in rows if not row.keys() >= ANSWERS or row["chosen"] != row["rejected"]]
    if len(different) < len(rows):
        console.print(f"{len(rows) - len(different)} of {len(rows)} rows are left out: both answers are the same")
    return different


def make_policy(model: str, options: Options) -> CausalLMPolicy:
    """The model as a policy, with adapters where they are asked for."""
    policy = CausalLMPolicy(
        model,
        sampling=SamplingConfig(max_new_tokens=options.new_tokens),
        peft_config=lora_config(options.lora_rank) if options.lora else None,
        with_entropy=False,
        seed=options.seed,
    )
    console.print(f"DPO trains {share_trained(policy)}")
    return policy.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def make_loss(options: Options) -> PreferenceLoss:
    """The loss that the options name."""
    if options.loss == "hinge":
        return HingePreferenceLoss(beta=options.beta)
    if options.loss == "ipo":
        return IdentityPreferenceLoss(beta=options.beta)
    if options.loss == "robust":
        return RobustPreferenceLoss(beta=options.beta, label_noise=options.label_smoothing)
    return SigmoidPreferenceLoss(beta=options.beta, label_smoothing=options.label_smoothing)


class Training:
    """A task with the trainer that learns it, and what was measured so far."""

    def __init__(self, task: Task, options: Options) -> None:
        self.task = task
        self.options = options
        self.num_steps = options.epochs * ceil(len(task.pairs) / options.pairs_per_step)
        self.evaluations: list[dict[str, float]] = []
        self.pairs, self.held_out = (
            pairs if options.reference_free else self._with_reference(pairs) for pairs in (task.pairs, task.held_out)
        )
        config = DPOConfig(
            learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=self.num_steps),
            micro_batch_size=options.micro_batch_size,
            reference_free=options.reference_free,
            seed=options.seed,
        )
        objective = DPOObjective(loss=make_loss(options), sft_coefficient=options.sft_coefficient)
        self.trainer: DPOTrainer[Any, Any] = DPOTrainer(config, task.policy, objective=objective)

    def _with_reference(self, pairs: Pairs) -> Pairs:
        """What the model says before its first step is kept, so that no copy of it has to be."""
        size = self.options.micro_batch_size or self.options.pairs_per_step
        parts = (pairs[first : first + size] for first in range(0, len(pairs), size))
        return [pair for part in parts for pair in with_reference_log_probs(part, self.task.policy)]

    def batches(self) -> list[Pairs]:
        """The pairs of each optimiser step, in another order in each epoch."""
        generator, size = random.Random(self.options.seed), self.options.pairs_per_step  # noqa: S311
        orders = [generator.sample(self.pairs, len(self.pairs)) for _ in range(self.options.epochs)]
        return [order[first : first + size] for order in orders for first in range(0, len(order), size)]

    def evaluate(self) -> dict[str, float]:
        """Metrics of the held-out pairs, and how many problems are answered rightly, where there are any."""
        metrics = self.trainer.evaluate(self.held_out)
        problems, policy = self.task.problems, self.task.policy
        if problems:
            metrics["greedy"] = accuracy(policy, problems)
            metrics["sampled"] = sampled_accuracy(policy, problems)
        self.evaluations.append(metrics)
        return metrics


def sampled_accuracy(policy: CausalLMPolicy, problems: Sequence[Row]) -> float:
    """Fraction of the policy's samples that answer exactly."""
    groups = policy.generate_actions(problems, 2)
    return sum(own.text == row["answer"] for row, group in zip(problems, groups, strict=True) for own in group) / (
        2 * len(problems)
    )


COLUMNS = {
    "loss": "loss",
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "log π chosen": "logps/chosen",
    "log π rejected": "logps/rejected",
    "right, greedy": "greedy",
    "right, sampled": "sampled",
}
"""What the table shows of the held-out pairs and problems, by the name of the metric."""
PERCENT = ("rewards/accuracies", "greedy", "sampled")


def train(training: Training) -> None:
    """Train, with a table of the held-out pairs that grows."""
    options = training.options
    metrics = training.evaluate()
    table = Table("step", title=f"{len(training.held_out)} held-out pairs")
    for column, metric in COLUMNS.items():
        if metric in metrics:
            table.add_column(column, justify="right")
    table.add_row("0", *cells(metrics))
    columns = (TextColumn("DPO"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TextColumn("{task.fields[status]}"), console=console)
    bar = progress.add_task("", total=training.num_steps, status="")
    with Live(Group(table, progress), console=console, refresh_per_second=4):
        for step, batch in enumerate(training.batches(), start=1):
            own = training.trainer.step(batch)
            if step % options.evaluate_every == 0 or step == training.num_steps:
                table.add_row(str(step), *cells(training.evaluate()))
            status = f"training pairs: loss {own['loss']:.3f}, accuracy {own['rewards/accuracies']:.0%}"
            progress.update(bar, advance=1, status=status)


def cells(metrics: dict[str, float]) -> list[str]:
    """A row of the table."""
    shown = [(metric, metrics[metric]) for metric in COLUMNS.values() if metric in metrics]
    return [f"{value:.1%}" if metric in PERCENT else f"{value:.3f}" for metric, value in shown]


def report(training: Training, before: Sequence[str], after: Sequence[str], seconds: float) -> None:
    """Say what was learnt: accuracy on pairs, and what the model now answers."""
    table = Table("prompt", "chosen", "rejected", "before", "after", title="likeliest completions, held-out prompts")
    for pair, *texts in zip(training.held_out[: len(before)], before, after, strict=True):
        row = (prompt_text(pair.state), pair.chosen.text, pair.rejected.text, *texts)
        table.add_row(*(Text(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}...") for text in row))
    console.print(table)
    first, last = training.evaluations[0], training.evaluations[-1]
    console.print(
        f"held-out accuracy: {last['rewards/accuracies']:.1%} of {len(training.held_out)} pairs, margin "
        f"{last['rewards/margins']:.2f}; log π of the chosen answers went from {first['logps/chosen']:.1f} to "
        f"{last['logps/chosen']:.1f}, of the rejected ones from {first['logps/rejected']:.1f} to "
        f"{last['logps/rejected']:.1f}",
        soft_wrap=True,
    )
    if training.task.problems:
        told = ", ".join(f"{first[kind]:.1%} to {last[kind]:.1%} {kind}" for kind in ("greedy", "sampled"))
        console.print(f"right answers to {len(training.task.problems)} held-out problems: {told}", soft_wrap=True)
    console.print(f"time: {seconds:.0f} s", f"model: {training.options.save}", sep="\n")


def main(options: Options) -> None:
    """Build, train, save."""
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    with errors_without_traceback():
        check(options)
        task = dataset_task(options) if options.model else arithmetic_task(options)
        console.print(f"{len(task.pairs)} pairs to train on, {len(task.held_out)} held out")
        training = Training(task, options)
        shown = [pair.state for pair in task.held_out[:PROMPTS_SHOWN]]
        before = [completion.text for completion in task.policy.complete(shown)]
    train(training)
    after = [completion.text for completion in task.policy.complete(shown)]
    task.policy.save_pretrained(options.save)
    report(training, before, after, time.perf_counter() - start)


if __name__ == "__main__":
    main(options_from(sys.argv[1:]))
