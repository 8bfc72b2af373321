"""A small language model learns to add, by GRPO or one of its relatives.

Nothing is downloaded: a transformer of 100,000 parameters is made and shown a few sums, until it gets some of them
right. From then on it is told nothing but whether its answers are. ``fine_tune_with_rewards.py`` trains a model of
yours on your own prompts and rewards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from peft import LoraConfig

from arithmetic import LONGEST_ANSWER, exact_answer, make_problems, starting_model
from grpo import (
    Checkpoints,
    Evaluate,
    LinearSchedule,
    PolicyEvaluation,
    Run,
    SampleLog,
    StateLoader,
    Until,
)
from grpo_adapters.huggingface import (
    CausalLMActorCritic,
    CausalLMPolicy,
    FunctionReward,
    SamplingConfig,
    describe_completion,
)
from language_model_algorithms import ALGORITHMS

PROMPTS, SAMPLES, UPDATES = 128, 8, 4  # of a rollout; RLOO and REINFORCE make one update of it


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    algorithm: Literal["grpo", "dr-grpo", "dapo", "gspo", "cispo", "rloo", "reinforce", "ppo"] = "grpo"
    """What to train with."""
    steps: int = 300
    """Rollouts to train on."""
    lora: bool = False
    """Train adapters of rank 2, and leave the model's own parameters as they are."""
    seed: int = 0
    """Of everything that is random."""
    folder: Path = Path("outputs/language_model")
    """Where each run has a folder of its own, named by algorithm and seed."""
    resume: bool = False
    """Go on with a run that was interrupted."""


def folder_of(options: Options) -> Path:
    """Where the run leaves what it makes."""
    return options.folder / f"{options.algorithm}{'-lora' if options.lora else ''}-{options.seed}"


def make_policy(model: Path, options: Options) -> CausalLMPolicy:
    """The model as a policy, with a critic for PPO and with adapters where they are asked for."""
    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    policy_class = CausalLMActorCritic if options.algorithm == "ppo" else CausalLMPolicy
    sampling = SamplingConfig(max_new_tokens=LONGEST_ANSWER)
    return policy_class(model, sampling=sampling, peft_config=lora if options.lora else None, seed=options.seed)


def make_run(options: Options) -> Run:
    """Everything that is trained, and what is looked at on the way."""
    folder = folder_of(options)
    problems, held_out = make_problems(options.seed)
    model = starting_model(folder, problems, options.seed)
    torch.manual_seed(options.seed)  # adapters and critics begin at random
    policy = make_policy(model, options)
    reward_model = FunctionReward(exact_answer)
    loader = StateLoader(problems, PROMPTS, seed=options.seed)
    learning_rate = 4e-3 if options.lora else 4e-4
    settings = {
        "group_size": SAMPLES,
        "batch_size": PROMPTS * SAMPLES // UPDATES,
        "learning_rate": LinearSchedule(start=learning_rate, end=0.0, num_steps=options.steps),
        "seed": options.seed,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    sampled = PolicyEvaluation(held_out, reward_model, group_size=SAMPLES, pass_at=(1, SAMPLES))
    likeliest = PolicyEvaluation(held_out, reward_model, generation_kwargs={"top_k": 1})
    return Run(
        ALGORITHMS[options.algorithm](policy, reward_model, loader, settings),
        loader,
        folder=folder,
        checkpoints=Checkpoints(every=50),
        callbacks=[
            Evaluate(sampled, every=25, name="sampled"),
            Evaluate(likeliest, every=25, name="likeliest"),
            SampleLog(every=25, count=2 * SAMPLES, describe=describe_completion),
        ],
    )


def main(options: Options) -> None:
    """Train, save the model, and say what it has learnt."""
    torch.set_num_threads(1)  # models this small run fastest on one thread
    run = make_run(options)
    if options.resume:
        run.resume()
    run(Until(steps=options.steps))
    folder = folder_of(options)
    run.trainer.policy.save_pretrained(folder / "model")
    evaluations = map(json.loads, (folder / "evaluations.jsonl").read_text("utf-8").splitlines())
    right = [metrics["likeliest/reward"] for metrics in evaluations if "likeliest/reward" in metrics]
    print(f"right answers to held-out problems: {right[0]:.1%} before, {right[-1]:.1%} after, see {folder}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
