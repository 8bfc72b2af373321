"""Reinforcement learning of a language model: GRPO, or one of its relatives.

Without --model nothing is downloaded: a small transformer is made, is shown a few sums, and then learns to add from
nothing but whether its answers are right. With --model it is any causal language model from the Hugging Face hub or a
folder, your prompts, and the rewards of a model or a function:

    python examples/language_model.py --model gpt2 --prompts prompts.txt \
        --reward-model OpenAssistant/reward-model-deberta-v3-large

The defaults below are those of arithmetic. --model has others, which --model NAME --help shows.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, zip_longest
from math import ceil
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import tyro
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from arithmetic import (
    LONGEST_ANSWER,
    accuracy,
    exact_answer,
    make_model,
    make_problems,
    make_tokenizer,
    supervised_start,
)
from grpo import Experience, LinearSchedule, RewardModel, Trainer
from grpo_adapters.huggingface import (
    CausalLMActorCritic,
    CausalLMPolicy,
    FormatReward,
    FunctionReward,
    SamplingConfig,
    SequenceClassificationReward,
    math_reward,
)
from grpo_adapters.tracking import TrackerName, Trackers, make_trackers
from language_model_algorithms import ALGORITHMS, Common, Setup
from language_model_common import (
    LORA_FACTOR,
    console,
    errors_without_traceback,
    lora_config,
    prompt_text,
    read_prompts,
    share_trained,
)

AlgorithmName = Literal["grpo", "dr-grpo", "dapo", "gspo", "cispo", "rloo", "reinforce", "ppo"]
FUNCTIONS: dict[str, Callable[..., Any]] = {"math": math_reward, "format": FormatReward()}

PROMPTS_SHOWN = 2


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    model: str | None = None
    """Name on the hub or folder of the model to train; without one, a small one learns to add."""
    reward_model: str | None = None
    """Name on the hub or folder of a sequence classifier that puts out one number; needs --model."""
    reward: Literal["math", "format"] | None = None
    """A function in its place, or added to it: 1 if the last number is the answer, or for <think> and <answer>."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A prompt to train on, given as often as there are prompts."""
    prompts: Path | None = None
    """File with a prompt on each line, or .jsonl with rows {"prompt": ..., "answer": ...}."""
    algorithm: AlgorithmName = "grpo"
    """What to train with."""
    steps: int = 300
    """Rollouts to train on."""
    prompts_per_step: int = 128
    """Prompts in a rollout, at the most; they are gone through in random order."""
    samples: int = 8
    """Completions of each prompt."""
    updates: int = 4
    """Updates of a rollout, each on a part of it; RLOO and REINFORCE make one of all."""
    micro_batch_size: int | None = None
    """Completions in a backward pass: fewer take less memory and change no result."""
    new_tokens: int = LONGEST_ANSWER
    """Tokens at which a completion is cut."""
    temperature: float = 1.0
    """Of the sampling: above 1 for more variety."""
    top_p: float = 1.0
    """Sample from the likeliest tokens only that together have this probability."""
    learning_rate: float = 4e-4
    """Learning rate to start from, it falls to 0; the default is ten times as high with --lora."""
    kl_coefficient: float = 0.0
    """Weight of the divergence from the model at the start; 0 for none."""
    lora: bool = False
    """Train adapters of low rank, and leave the model's own parameters as they are."""
    lora_rank: int = 2
    """Rank of the adapters."""
    device: str | None = None
    """Where to compute, "cuda" or "cpu"; by default on a GPU if there is one."""
    trackers: tuple[TrackerName, ...] = ()
    """Where metrics and completions are logged."""
    table_every: int = 25
    """Steps between two tables of completions."""
    seed: int = 0
    """Of everything that is random."""
    output: Path = Path("outputs/language_model")
    """Folder for the trained model, the figure and what trackers write."""


ARITHMETIC = Options()
WITH_MODEL = replace(
    ARITHMETIC,
    steps=50,
    prompts_per_step=8,
    updates=2,
    new_tokens=64,
    top_p=0.95,
    learning_rate=1e-5,
    kl_coefficient=0.04,
    lora_rank=16,
    table_every=5,
)
"""Defaults with --model."""


@dataclass(frozen=True)
class Task:
    """What is to be learnt.

    Attributes:
        model: name or folder of the model to start from.
        rows: what to train on, strings or rows with a column ``prompt``.
        held_out: rows with a column ``answer``, which are never trained on.
        reward_model: scores completions.
    """

    model: str
    rows: Sequence[Any]
    held_out: Sequence[dict[str, str]]
    reward_model: RewardModel[Any, Any]


@dataclass(frozen=True)
class Curve:
    """How the training went.

    Attributes:
        rewards: mean reward of each step.
        evaluated: numbers of steps before the policy was evaluated.
        accuracies: fraction of held-out problems that it answered exactly.
    """

    rewards: list[float] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


class Training:
    """A task with the policy that learns it, its trainer, and the curve so far."""

    def __init__(self, task: Task, options: Options) -> None:
        self.task = task
        self.options = options
        self.curve = Curve()
        self.prompts_per_step = min(options.prompts_per_step, len(task.rows))
        self.policy = make_policy(task.model, options)
        self.trainer = self._make_trainer()
        self._stream = shuffled(task.rows, options.seed)

    def _make_trainer(self) -> Trainer[Any, Any]:
        options = self.options
        common = Common(
            group_size=options.samples,
            learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=options.steps),
            micro_batch_size=options.micro_batch_size,
            seed=options.seed,
            device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )
        setup = Setup(
            self.policy,
            self.task.reward_model,
            self.draw_prompts,
            common,
            batch_size=ceil(self.prompts_per_step * options.samples / options.updates),
            max_new_tokens=options.new_tokens,
            kl_coefficient=options.kl_coefficient,
        )
        return ALGORITHMS[options.algorithm](setup)

    def draw_prompts(self, count: int) -> list[Any]:
        """The next prompts to train on."""
        return list(islice(self._stream, count))

    def step(self) -> tuple[Experience, dict[str, float]]:
        """One rollout and what is learnt from it; ``trainer.step`` would not show the completions."""
        experience = self.trainer.collector.collect(self.draw_prompts(self.prompts_per_step))
        metrics = self.trainer.update(experience)
        self.curve.rewards.append(metrics["reward"])
        return experience, metrics

    def evaluate(self) -> dict[str, float]:
        """Accuracy on problems that are never trained on, where there are any."""
        if not self.task.held_out:
            return {}
        self.curve.evaluated.append(len(self.curve.rewards))
        self.curve.accuracies.append(accuracy(self.policy, self.task.held_out))
        return {"held_out_accuracy": self.curve.accuracies[-1]}


def options_from(arguments: Sequence[str]) -> Options:
    """The options that a command line gives, with the defaults that belong to them."""
    given = {argument.partition("=")[0] for argument in arguments}
    defaults = WITH_MODEL if "--model" in given else ARITHMETIC
    if "--lora" in given:
        defaults = replace(defaults, learning_rate=LORA_FACTOR * defaults.learning_rate)
    return tyro.cli(Options, description=__doc__, args=arguments, default=defaults)


def arithmetic_task(options: Options) -> Task:
    """Sums of two numbers, and a small model that has been shown some."""
    torch.set_num_threads(1)  # models this small run fastest on one thread
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    rows, held_out = make_problems(options.seed)
    with console.status("supervised start"):
        num_steps = supervised_start(model, tokenizer, rows)
    console.print(f"supervised start: {num_steps} steps")
    folder = options.output / "start"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Task(str(folder), rows, held_out, FunctionReward(exact_answer))


def text_task(options: Options) -> Task:
    """Prompts and rewards as the options name them."""
    assert options.model is not None
    rows = [*options.prompt, *(read_prompts(options.prompts) if options.prompts else ())]
    if not rows:
        raise ValueError("--model needs prompts: give --prompt TEXT, once or several times, or --prompts FILE")
    return Task(options.model, rows, (), make_reward(options, rows))


def make_reward(options: Options, rows: Sequence[Any]) -> FunctionReward:
    """The sum of the rewards that the options name."""
    rewards: list[Callable[..., Any]] = []
    if options.reward == "math" and not all(isinstance(row, dict) and "answer" in row for row in rows):
        raise ValueError('--reward math needs answers: --prompts FILE.jsonl with rows {"prompt": ..., "answer": ...}')
    if options.reward is not None:
        rewards.append(FUNCTIONS[options.reward])
    if options.reward_model is not None:
        rewards.append(SequenceClassificationReward(options.reward_model))
    if not rewards:
        raise ValueError("--model needs a reward: give --reward-model NAME, or --reward math or format")
    return FunctionReward(rewards)


def make_policy(model: str, options: Options) -> CausalLMPolicy:
    """The model as a policy, with a critic for PPO and with adapters where they are asked for."""
    policy_class = CausalLMActorCritic if options.algorithm == "ppo" else CausalLMPolicy
    policy = policy_class(
        model,
        sampling=SamplingConfig(
            temperature=options.temperature, top_p=options.top_p, max_new_tokens=options.new_tokens
        ),
        peft_config=lora_config(options.lora_rank) if options.lora else None,
        seed=options.seed,
    )
    console.print(f"{options.algorithm} trains {share_trained(policy)}")
    return policy


def shuffled(rows: Sequence[Any], seed: int) -> Iterator[Any]:
    """The rows in random order, again and again."""
    generator = random.Random(seed)  # noqa: S311
    while True:
        yield from generator.sample(rows, len(rows))


def train(training: Training, tracker: Trackers) -> None:
    """Train, and show on the way what the policy says."""
    options = training.options
    evaluation = training.evaluate()
    columns = (TextColumn(options.algorithm), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[status]}"), console=console) as progress:
        bar = progress.add_task("", total=options.steps, status="")
        for step in range(1, options.steps + 1):
            experience, metrics = training.step()
            if step % options.table_every == 0 or step == options.steps:
                evaluation = training.evaluate()
                metrics |= evaluation
                show_completions(experience, tracker, step)
            tracker.log(metrics, step)
            told = {"reward": metrics["reward"]} | evaluation
            status = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in told.items())
            progress.update(bar, advance=1, status=status)


def show_completions(experience: Experience, tracker: Trackers, step: int) -> None:
    """Print and log the completions of the first prompts, best first."""
    rewards = experience.sample_rewards.values.tolist()
    table, columns, rows, start = Table(title=f"step {step}"), [], [], 0
    for length in experience.groups.lengths[:PROMPTS_SHOWN].tolist():
        prompt = prompt_text(experience.states[start])
        group = range(start, start + length)
        ranked = sorted(((rewards[sample], experience.actions[sample].text) for sample in group), reverse=True)
        table.add_column(Text(prompt))
        columns.append([Text(f"[{reward:+.2f}] {text}") for reward, text in ranked])
        rows += [(prompt, text, reward) for reward, text in ranked]
        start += length
    for cells in zip_longest(*columns, fillvalue=Text()):
        table.add_row(*cells)
    console.print(table)
    tracker.log_table("completions", ("prompt", "completion", "reward"), rows, step)


def draw(curve: Curve, options: Options) -> Path:
    """Save a figure of the rewards, and of the accuracy where it was measured."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(
        range(1, len(curve.rewards) + 1), curve.rewards, color="C0", alpha=0.5, label="mean reward of the samples"
    )
    if curve.accuracies:
        label = "exact answers on held-out problems"
        axes.plot(curve.evaluated, curve.accuracies, color="C1", marker="o", markersize=3, label=label)
    axes.set(title=f"{options.algorithm} on {options.model or 'sums'}", xlabel="step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = options.output / "learning_curve.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def report(training: Training, seconds: float) -> None:
    """Say what was learnt, and where everything is."""
    curve, options = training.curve, training.options
    if curve.accuracies:
        console.print(
            f"exact answers on {len(training.task.held_out)} held-out problems: {curve.accuracies[0]:.1%} after the "
            f"supervised start, {curve.accuracies[-1]:.1%} after {options.steps} steps of {options.algorithm}",
            soft_wrap=True,
        )
    else:
        console.print(f"mean reward: {curve.rewards[0]:.3f} in the first step, {curve.rewards[-1]:.3f} in the last")
    console.print(f"time: {seconds:.0f} s", f"model: {options.output}", f"figure: {draw(curve, options)}", sep="\n")


def main(options: Options) -> None:
    """Build, train, save."""
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    with errors_without_traceback():
        check(options)
        tracker = make_trackers(options.trackers, options.output, config=asdict(options))
    with tracker:
        with errors_without_traceback():
            task = text_task(options) if options.model else arithmetic_task(options)
            training = Training(task, options)
        train(training, tracker)
    training.policy.save_pretrained(options.output)
    report(training, time.perf_counter() - start)


def check(options: Options) -> None:
    """Refuse what does not go together."""
    for name in ("steps", "prompts_per_step", "samples", "updates", "table_every"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected at least 1")
    for name in ("prompt", "prompts", "reward", "reward_model"):
        if options.model is None and getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} needs --model: the small model knows nothing but sums")


if __name__ == "__main__":
    main(options_from(sys.argv[1:]))
