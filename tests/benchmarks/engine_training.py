"""A small language model trained through a real vLLM on a CPU, and by itself, on the same sums.

Told are, for each seed, how many held-out problems are answered rightly at the end, and how far log-probs of the server
are from the policy's; tokens a second of the server, of this library's own sampling and of transformers' ``generate``;
and whether a run goes on whose server is killed in the middle and started again. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from arithmetic import LONGEST_ANSWER, accuracy, exact_answer, make_model, make_problems, starting_model
from engine import DEVELOPMENT, LEARNING_RATE, MODEL, SAMPLES, START, UPDATES
from grpo import GRPOConfig, GRPOTrainer, LinearSchedule, StateLoader
from grpo_adapters.huggingface import CausalLMPolicy, FunctionReward, SamplingConfig, character_tokenizer
from grpo_adapters.huggingface.engines import EngineSampler

CONTEXT = {"max_position_embeddings": 128}
GAP = 1e-3  # nats; both compute in float32


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    vllm: Path = Path(sys.executable).parent / "vllm"
    """The command that starts servers."""
    steps: int = 150
    """Rollouts of each run."""
    prompts: int = 128
    """Of each rollout."""
    seeds: int = 3
    """Runs of each kind."""
    port: int = 8377
    """Where the server answers, on this machine only."""


class Server:
    """vLLM, in a process group of its own."""

    def __init__(self, options: Options, model: Path) -> None:
        serve = [str(options.vllm), "serve", str(model), "--host", "127.0.0.1", "--port", str(options.port)]
        self.command = [*serve, "--dtype", "float32", "--max-model-len", "128", "--enforce-eager"]
        self.command += ["--logprobs-mode", "processed_logprobs"]
        self.log = (model.parent / "server.log").open("a")
        self.url = f"http://127.0.0.1:{options.port}"
        self.start()

    def start(self) -> None:
        environment = os.environ | DEVELOPMENT
        environment.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            self.command, stdout=self.log, stderr=self.log, env=environment, start_new_session=True
        )

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def trained(options: Options, model: Path, seed: int, url: str | None, watch: Callable[[int], None]) -> dict[str, Any]:
    """What comes out of a run with an engine, or without one."""
    torch.manual_seed(seed)
    problems, held_out = make_problems(seed)
    sampling = SamplingConfig(max_new_tokens=LONGEST_ANSWER)
    policy = CausalLMPolicy(model, sampling=sampling, seed=seed)
    sampler = None if url is None else EngineSampler(url, seed=seed)
    loader = StateLoader(problems, options.prompts, seed=seed)
    config = GRPOConfig(
        group_size=SAMPLES,
        batch_size=options.prompts * SAMPLES // UPDATES,
        learning_rate=LinearSchedule(start=LEARNING_RATE, end=0.0, num_steps=options.steps),
        seed=seed,
    )
    trainer = GRPOTrainer(config, policy, FunctionReward(exact_answer), sampler=sampler)
    before, start, gaps, retries = accuracy(policy, held_out), time.monotonic(), [], 0.0
    for step in range(options.steps):
        watch(step)
        metrics = trainer.step(loader.draw(options.prompts))
        retries += metrics.get("engine/retries", 0.0)
        if sampler is not None:
            gaps.append(metrics["sampling/log_prob_gap"])
    return {
        "before": before,
        "after": accuracy(policy, held_out),
        "seconds": time.monotonic() - start,
        "gap": statistics.mean(gaps) if gaps else None,
        "largest_gap_of_a_step": max(gaps) if gaps else None,
        "retries": retries,
    }


def speeds(url: str) -> dict[str, float]:
    """Tokens a second, of 32 prompts with 8 completions of 64 tokens each; the median of 3 after one to warm up."""
    tokenizer = character_tokenizer("0123456789+=")
    torch.manual_seed(0)
    model: Any = make_model(tokenizer, **MODEL, **CONTEXT)
    tokenizer.eos_token, model.config.eos_token_id, model.generation_config.eos_token_id = None, None, None
    with warnings.catch_warnings(action="ignore"):  # that nothing ends is meant
        policy = CausalLMPolicy(model, tokenizer, sampling=SamplingConfig(max_new_tokens=64))
    prompts = [row["prompt"] for row in make_problems(0)[0][:32]]
    tokens = torch.tensor(tokenizer([prompt for prompt in prompts for _ in range(8)])["input_ids"])
    sampler = EngineSampler(url, request_options={"ignore_eos": True})
    kinds: dict[str, Callable[[], Any]] = {
        "server": lambda: sampler.sample(policy, prompts, 8),
        "own": lambda: policy.generate_actions(prompts, 8),
        "generate": lambda: model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=True, max_new_tokens=64, pad_token_id=1
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(4):
        for name, sample in kinds.items():
            start = time.monotonic()
            sample()
            seconds[name].append(time.monotonic() - start)
    return {name: 32 * 8 * 64 / statistics.median(own[1:]) for name, own in seconds.items()}


def killed(options: Options, model: Path, server: Server) -> dict[str, Any]:
    """A run whose server dies in the middle of a step, and is started again."""

    def kill_and_start() -> None:
        time.sleep(0.3)
        server.kill()
        time.sleep(2)
        server.start()

    def watch(step: int) -> None:
        if step == options.steps // 2:
            threading.Thread(target=kill_and_start).start()

    return trained(options, model, 0, server.url, watch)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    problems = [make_problems(seed)[0] for seed in range(options.seeds)]
    models = [starting_model(folder, rows, seed, **START, **CONTEXT) for seed, rows in enumerate(problems)]
    server = Server(options, models[0])
    try:
        told: dict[str, Any] = {"tokens_a_second": speeds(server.url)}
        print(told, flush=True)
        for name, url in (("server", server.url), ("itself", None)):
            told[name] = []
            for seed, model in enumerate(models):
                told[name].append(trained(options, model, seed, url, lambda step: None))
                print(name, seed, told[name][-1], flush=True)
        told["killed"] = killed(options, models[0], server)
        print("killed", told["killed"], flush=True)
    finally:
        server.kill()
    print(json.dumps(told))
    gaps = [run["gap"] for run in (*told["server"], told["killed"])]
    assert max(gaps) < GAP, f"log-probs are {max(gaps):.2g} nats apart on average, expected less than {GAP:g}"
    assert told["killed"]["retries"] > 0


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
