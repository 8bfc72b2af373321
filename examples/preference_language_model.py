"""A small language model learns to add by DPO, from pairs of a right and a wrong answer, both its own.

Nothing is downloaded: a transformer of 100,000 parameters is made and shown a few sums, until it gets some of them
right. ``fine_tune_on_preferences.py`` trains a model of yours on a preference dataset.

To tell a chosen from a rejected answer is less than to give the chosen one: DPO may make both less likely, if only the
rejected one falls further. With ``--beta 0.1`` that happens, with ``--sft-coefficient 1`` it does not. So the log-probs
of both are told, and how many sums are answered rightly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from peft import LoraConfig

from arithmetic import LONGEST_ANSWER, Row, exact_answer, make_problems, starting_model
from grpo import (
    Checkpoints,
    DPOConfig,
    DPOTrainer,
    Evaluate,
    LinearSchedule,
    PolicyEvaluation,
    Preference,
    PreferenceCollector,
    Run,
    StateLoader,
    Until,
    with_reference_log_probs,
)
from grpo_adapters.huggingface import CausalLMPolicy, FunctionReward, SamplingConfig

Pairs = list[Preference[Any, Any]]

PAIRS_PER_STEP, SAMPLES, PROBLEMS_PER_CALL = 256, 8, 500
REWARD = FunctionReward(exact_answer)


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    beta: float = 1.0
    """How near to stay to the model at the start: the larger, the nearer."""
    sft_coefficient: float = 0.0
    """Weight of the chosen answers' own likelihood in the loss."""
    epochs: int = 10
    """Times that each pair is trained on."""
    lora: bool = False
    """Train adapters of rank 2, and leave the model's own parameters as they are."""
    seed: int = 0
    """Of everything that is random."""
    folder: Path = Path("outputs/preference_language_model")
    """Of the run, and of the models that it starts from and leaves."""
    resume: bool = False
    """Go on with the run in the folder, which was interrupted."""


def own_pairs(policy: CausalLMPolicy, rows: Sequence[Row]) -> Pairs:
    """A right and a wrong answer of the policy's own to each problem that it gave both to."""
    collector = PreferenceCollector(policy, REWARD, group_size=SAMPLES)
    parts = (rows[first : first + PROBLEMS_PER_CALL] for first in range(0, len(rows), PROBLEMS_PER_CALL))
    pairs = [pair for part in parts for pair in collector.collect(part).preferences]
    return with_reference_log_probs(pairs, policy, micro_batch_size=PAIRS_PER_STEP)


def make_run(options: Options) -> tuple[Run, Until]:
    """Everything that is trained, what is looked at on the way, and when it ends."""
    rows, held_out = make_problems(options.seed)
    model = starting_model(options.folder, rows, options.seed)
    torch.manual_seed(options.seed)  # adapters begin at random
    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM") if options.lora else None
    sampling = SamplingConfig(max_new_tokens=LONGEST_ANSWER)
    policy = CausalLMPolicy(model, sampling=sampling, peft_config=lora, with_entropy=False, seed=options.seed)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    pairs, held_out_pairs = own_pairs(policy, rows), own_pairs(policy, held_out)
    print(f"{len(pairs)} pairs to train on, {len(held_out_pairs)} held out")
    until = Until(steps=-(-options.epochs * len(pairs) // PAIRS_PER_STEP))
    config = DPOConfig(
        beta=options.beta,
        sft_coefficient=options.sft_coefficient,
        learning_rate=LinearSchedule(start=1e-2 if options.lora else 1e-3, end=0.0, num_steps=until.steps),
        seed=options.seed,
    )
    trainer: DPOTrainer[Any, Any] = DPOTrainer(config, policy)
    run = Run(
        trainer,
        StateLoader(pairs, PAIRS_PER_STEP, seed=options.seed),
        folder=options.folder,
        checkpoints=Checkpoints(every=50),
        callbacks=[
            Evaluate(lambda _: trainer.evaluate(held_out_pairs), every=20, name="held_out"),
            Evaluate(PolicyEvaluation(held_out, REWARD, group_size=2), every=20, name="sampled"),
            Evaluate(PolicyEvaluation(held_out, REWARD, generation_kwargs={"top_k": 1}), every=20, name="likeliest"),
        ],
    )
    return run, until


def main(options: Options) -> None:
    """Train, save the model, and say what it has learnt."""
    torch.set_num_threads(1)  # models this small run fastest on one thread
    run, until = make_run(options)
    if options.resume:
        run.resume()
    run(until)
    run.trainer.policy.save_pretrained(options.folder / "model")
    for name in ("held_out/rewards/accuracies", "held_out/logps/chosen", "held_out/logps/rejected", "likeliest/reward"):
        print(f"{name}: {run.evaluation[name]:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
