"""GRPO of a language model of yours, on your own prompts, with rewards of functions or of a model.

python examples/fine_tune_with_rewards.py --model Qwen/Qwen3-0.6B --dataset problems.jsonl --rewards math --lora

A line of ``problems.jsonl`` is {"prompt": text or chat messages, "answer": "42"}. Reward functions see all columns, and
``math`` asks for an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from datasets import load_dataset  # type: ignore[import-untyped]
from peft import LoraConfig

from grpo import (
    BestWeights,
    Checkpoints,
    Evaluate,
    GRPOConfig,
    GRPOTrainer,
    LinearSchedule,
    PolicyEvaluation,
    Run,
    SampleLog,
    StateLoader,
    Until,
    WatchForTrouble,
    load_best_weights,
)
from grpo_adapters.huggingface import (
    CausalLMPolicy,
    FormatReward,
    FunctionReward,
    SamplingConfig,
    SequenceClassificationReward,
    describe_completion,
    math_reward,
)

FUNCTIONS: dict[str, Any] = {"math": math_reward, "format": FormatReward()}
PROMPTS, SAMPLES, UPDATES = 8, 8, 2  # of a rollout
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


@dataclass(frozen=True)
class Options:
    model: str
    """Name on the hub, or folder, of the model to train."""
    dataset: str
    """A .jsonl file with a prompt, and what the rewards need, in each line."""
    rewards: tuple[str, ...]
    """Added up: math, 1 if the last number is the answer; format, for <think> and <answer>; names of reward models."""
    held_out: int = 64
    """Rows that are never trained on."""
    steps: int = 50
    """Rollouts to train on."""
    micro_batch_size: int | None = None
    """Completions in a backward pass: fewer take less memory and change no result."""
    new_tokens: int = 64
    """Tokens at which a completion is cut."""
    learning_rate: float = 1e-5
    """Learning rate to start from, it falls to 0; with --lora try 1e-4."""
    lora: bool = False
    """Train adapters of rank 16, and leave the model's own parameters as they are."""
    seed: int = 0
    """Of everything that is random."""
    folder: Path = Path("outputs/fine_tune_with_rewards")
    """Folder of the run, and of the model that it leaves."""
    resume: bool = False
    """Go on with the run in the folder, which was interrupted."""


def main(options: Options) -> None:
    """Train, and save the model that did best on the rows that were held out."""
    table = load_dataset("json", data_files=options.dataset, split="train")
    rows = table.train_test_split(test_size=options.held_out, seed=options.seed)
    torch.manual_seed(options.seed)  # adapters begin at random
    sampling = SamplingConfig(max_new_tokens=options.new_tokens, top_p=0.95)
    peft_config = LORA if options.lora else None
    policy = CausalLMPolicy(options.model, sampling=sampling, peft_config=peft_config, seed=options.seed)
    rewards = [FUNCTIONS.get(name) or SequenceClassificationReward(name) for name in options.rewards]
    reward_model = FunctionReward(rewards)
    config = GRPOConfig(
        group_size=SAMPLES,
        batch_size=PROMPTS * SAMPLES // UPDATES,
        micro_batch_size=options.micro_batch_size,
        learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=options.steps),
        seed=options.seed,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    evaluation = PolicyEvaluation(list(rows["test"]), reward_model, group_size=SAMPLES)
    run = Run(
        GRPOTrainer(config, policy, reward_model, policy.reference()),
        StateLoader(list(rows["train"]), PROMPTS, seed=options.seed),
        folder=options.folder,
        checkpoints=Checkpoints(every=10),
        callbacks=[
            Evaluate(evaluation, every=10, name="held_out"),
            BestWeights("held_out/reward"),
            SampleLog(every=10, count=2 * SAMPLES, describe=describe_completion),
            WatchForTrouble(),
        ],
    )
    if options.resume:
        run.resume()
    run(Until(steps=options.steps))
    best = load_best_weights(policy, options.folder)
    policy.save_pretrained(options.folder / "model")
    print(f"held-out reward {best['value']:.3f} after step {best['step']}: {options.folder / 'model'}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
