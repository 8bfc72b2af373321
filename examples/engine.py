"""A small language model learns to add by GRPO, while an inference engine samples.

``--serve`` starts vLLM, and ends it afterwards; ``--url`` takes a server that is there already, started with the model
in ``start-<seed>``, which is made in the folder of the run.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from arithmetic import LONGEST_ANSWER, accuracy, exact_answer, make_problems, starting_model
from grpo import GRPOConfig, GRPOTrainer, LinearSchedule, Run, StateLoader, Until
from grpo_adapters.huggingface import CausalLMPolicy, FunctionReward, SamplingConfig
from grpo_adapters.huggingface.engines import EngineSampler

PROMPTS, SAMPLES, UPDATES = 128, 8, 4  # of a rollout
LEARNING_RATE = 2e-4
MODEL = {"hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 2}  # heads of 64, as vLLM takes them
START: dict[str, Any] = {**MODEL, "learning_rate": 1e-3}
DEVELOPMENT = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Options:
    """Options of the run."""

    url: tuple[str, ...] = ("http://127.0.0.1:8000",)
    """Where servers are; several share the work."""
    serve: Path | None = None
    """The command vllm, to start a server at the first of these addresses."""
    steps: int = 100
    """Rollouts to train on."""
    prompts: int = PROMPTS
    """Of each rollout."""
    seed: int = 0
    """Of everything that is random."""
    folder: Path = Path("outputs/engine")
    """Where the model is, and what is written of the run."""


@contextmanager
def served(vllm: Path, model: Path, url: str) -> Iterator[None]:
    """A server of the model, until it is no longer needed."""
    port = url.rpartition(":")[2]
    command = [str(vllm), "serve", str(model), "--host", "127.0.0.1", "--port", port, "--dtype", "float32"]
    options = ["--max-model-len", "16", "--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    with (model.parent / "server.log").open("w") as log:
        environment = os.environ | DEVELOPMENT
        server = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=environment)  # noqa: S603
        try:
            yield
        finally:
            server.terminate()
            server.wait()


def train(options: Options, model: Path) -> None:
    """Train by GRPO, and say what the model has learnt, and how near the engine was to it."""
    problems, held_out = make_problems(options.seed)
    policy = CausalLMPolicy(model, sampling=SamplingConfig(max_new_tokens=LONGEST_ANSWER), seed=options.seed)
    sampler = EngineSampler(options.url, seed=options.seed)
    loader = StateLoader(problems, options.prompts, seed=options.seed)
    config = GRPOConfig(
        group_size=SAMPLES,
        batch_size=options.prompts * SAMPLES // UPDATES,
        learning_rate=LinearSchedule(start=LEARNING_RATE, end=0.0, num_steps=options.steps),
        seed=options.seed,
    )
    trainer = GRPOTrainer(config, policy, FunctionReward(exact_answer), sampler=sampler)
    before = accuracy(policy, held_out)
    run = Run(trainer, loader, folder=options.folder / f"run-{options.seed}")
    run(Until(steps=options.steps))
    print(f"right answers to held-out problems: {before:.1%} before, {accuracy(policy, held_out):.1%} after")
    kl, speed = run.metrics["sampling/kl"], run.metrics["engine/tokens_per_second"]
    print(f"the engine was {kl:.1e} nats a token from the policy, and sampled {speed:,.0f} tokens a second")


def main(options: Options) -> None:
    """Make the model, start a server where one is asked for, and train."""
    torch.set_num_threads(1)  # models this small run fastest on one thread
    problems, _ = make_problems(options.seed)
    model = starting_model(options.folder, problems, options.seed, **START)
    if options.serve is None:
        return train(options, model)
    with served(options.serve, model, options.url[0]):
        train(options, model)
    return None


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
