"""DPO of a language model of yours, from pairs of a preferred and a less preferred answer.

python examples/fine_tune_on_preferences.py --model Qwen/Qwen3-0.6B --dataset preferences.jsonl --lora

A line of ``preferences.jsonl`` is {"prompt": ..., "chosen": ..., "rejected": ...}, texts or chat messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from datasets import load_dataset  # type: ignore[import-untyped]
from peft import LoraConfig

from grpo import (
    BestWeights,
    Checkpoints,
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    Evaluate,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    LinearSchedule,
    Run,
    SigmoidPreferenceLoss,
    StateLoader,
    Until,
    load_best_weights,
    with_reference_log_probs,
)
from grpo_adapters.huggingface import CausalLMPolicy, preferences_of

LOSSES: dict[str, Any] = {"sigmoid": SigmoidPreferenceLoss, "hinge": HingePreferenceLoss, "ipo": IdentityPreferenceLoss}


@dataclass(frozen=True)
class Options:
    model: str
    """Name on the hub, or folder, of the model to train."""
    dataset: str
    """A .jsonl file with prompt, chosen and rejected in each line."""
    held_out: int = 64
    """Pairs that are never trained on."""
    max_length: int | None = None
    """Tokens of prompt and answer at which an answer is cut; without, those too long for the model are an error."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """DPO's own loss, SLiC's, or IPO's."""
    beta: float = 0.1
    """How near to stay to the model at the start: the larger, the nearer."""
    sft_coefficient: float = 0.0
    """Weight of the chosen answers' own likelihood in the loss."""
    epochs: int = 1
    """Times that each pair is trained on."""
    pairs_per_step: int = 32
    """Pairs in an optimiser step."""
    micro_batch_size: int = 4
    """Pairs in a backward pass: fewer take less memory and change no result."""
    learning_rate: float = 1e-6
    """Learning rate to start from, it falls to 0; with --lora try 1e-5."""
    lora: bool = False
    """Train adapters of rank 16, and leave the model's own parameters as they are."""
    seed: int = 0
    """Of everything that is random."""
    folder: Path = Path("outputs/fine_tune_on_preferences")
    """Of the run, and of the model that it leaves."""
    resume: bool = False
    """Go on with the run in the folder, which was interrupted."""


def main(options: Options) -> None:
    """Train, and save the model that did best on the pairs that were held out."""
    table = load_dataset("json", data_files=options.dataset, split="train")
    table = table.filter(lambda row: row["chosen"] != row["rejected"])
    rows = table.train_test_split(test_size=options.held_out, seed=options.seed)
    torch.manual_seed(options.seed)  # adapters begin at random
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM") if options.lora else None
    policy = CausalLMPolicy(options.model, peft_config=lora, with_entropy=False, seed=options.seed)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    pairs, held_out = (
        with_reference_log_probs(own, policy, micro_batch_size=options.micro_batch_size)
        for own in (preferences_of(rows[part], policy, max_length=options.max_length) for part in ("train", "test"))
    )
    until = Until(steps=ceil(options.epochs * len(pairs) / options.pairs_per_step))
    config = DPOConfig(
        micro_batch_size=options.micro_batch_size,
        learning_rate=LinearSchedule(start=options.learning_rate, end=0.0, num_steps=until.steps),
        seed=options.seed,
    )
    objective = DPOObjective(loss=LOSSES[options.loss](beta=options.beta), sft_coefficient=options.sft_coefficient)
    trainer: DPOTrainer[Any, Any] = DPOTrainer(config, policy, objective=objective)
    run = Run(
        trainer,
        StateLoader(pairs, options.pairs_per_step, seed=options.seed),
        folder=options.folder,
        checkpoints=Checkpoints(every=20),
        callbacks=[
            Evaluate(lambda _: trainer.evaluate(held_out), every=20, name="held_out"),
            BestWeights("held_out/loss", "lowest"),
        ],
    )
    if options.resume:
        run.resume()
    run(until)
    best = load_best_weights(policy, options.folder)
    policy.save_pretrained(options.folder / "model")
    print(f"held-out loss {best['value']:.3f} after step {best['step']}: {options.folder / 'model'}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
