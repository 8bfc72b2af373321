"""Throughput of two processes of one thread over that of one, each with the same work: PPO, and a language model.

One process, two that know nothing of each other, and two that train one policy together take turns, step by step, so
that whatever else the machine does falls on all; "apart" is what two cores of this machine can give at all. CPU time
leaves out what processes wait for each other. PPO plays LunarLander as in ``control_speed.py``; each process has its
own environments, and brings 64 rows into each update, or 1,024. The language model is the tiny one of
``language_work.py``, with completions of varied lengths; each process has its own prompts. A ratio is the median over
the rounds of that within a round. Bytes are those that a process hands over in a
step, beside 2 P (n - 1) / n numbers for each sum of P gradients over n processes. The last line holds all as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
import tyro

from grpo import World

SIZE = 2


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    rounds: int = 9
    """Steps of each that count, after one that does not."""
    num_steps: int = 1024
    """Steps in each of 16 LunarLanders in a rollout."""
    work: Literal["control", "language"] | None = None
    """What to measure; all for None."""
    rows: int | None = None
    """What each process brings into an update in LunarLander; 64, and then 1024, for None."""
    worker: bool = False
    """Be a process that makes a step when it is asked to."""


def control(world: World, num_steps: int, rows: int) -> tuple[Any, Callable[[], dict[str, float]]]:
    """PPO in LunarLander."""
    from control_speed import our_ppo

    from hand_written_ppo import LUNAR_LANDER

    settings = replace(LUNAR_LANDER, num_steps=num_steps, batch_size=rows * world.size)
    trainer = our_ppo(settings, world)
    return trainer, lambda: trainer.step(list(range(settings.num_envs)))


def language(world: World) -> tuple[Any, Callable[[], dict[str, float]]]:
    """GRPO on a tiny language model."""
    from language_work import NUM_PROMPTS, Work, build_prompts
    from our_step import build_trainer

    work = Work(lengths="varied")
    trainer = build_trainer(work, world)
    prompts = build_prompts(work, 4096)[world.rank :: world.size]
    starts = iter(range(0, len(prompts), NUM_PROMPTS))

    def step() -> dict[str, float]:
        start = next(starts)
        return dict(trainer.step(prompts[start : start + NUM_PROMPTS]))

    return trainer, step


def work_in_turns(options: Options) -> None:
    """Make a step whenever a line comes in; answer with what it took."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    torch.set_num_threads(1)
    world = World.from_environment()
    trainer, step = language(world) if options.rows is None else control(world, options.num_steps, options.rows)
    num_parameters = sum(tensor.numel() for tensor in trainer.policy.get_parameters().values())
    for _ in sys.stdin:
        before, began, cpu_began = world.num_bytes, time.perf_counter(), time.process_time()
        metrics = step()
        answer = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu_began,
            "decisions": metrics["num_decisions"],
            "bytes": world.num_bytes - before,
            "model": metrics["num_updates"] * 4 * 2 * num_parameters * (world.size - 1) / world.size,
            "updates": metrics["num_updates"],
        }
        print(json.dumps(answer), file=answers, flush=True)


class Processes:
    """Some that train one policy together, or each its own, a step when they are asked for it."""

    def __init__(self, size: int, arguments: Sequence[str], *, apart: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
                | ({} if apart else together | {"RANK": str(rank)}),
            )
            for rank in range(size)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def step(self) -> dict[str, float]:
        """Let all make a step; what the first of them answers, with the seconds of the slowest."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("step\n")
            process.stdin.flush()
        lines = [process.stdout.readline() for process in self.processes if process.stdout is not None]
        if not all(lines):
            raise RuntimeError(f"a process of {__file__} has died: see what it says with --worker, given a line")
        answers = [json.loads(line) for line in lines]
        return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}


def measure(arguments: Sequence[str], num_rounds: int) -> dict[str, float]:
    """Decisions per second of one process, of two apart and of two together, and what these send each other."""
    with ExitStack() as stack:
        alone, apart, together = (
            stack.enter_context(Processes(size, arguments, apart=is_apart))
            for size, is_apart in ((1, True), (SIZE, True), (SIZE, False))
        )
        rounds = [(alone.step(), apart.step(), together.step()) for _ in range(num_rounds + 1)][1:]
    for _, two_apart, _ in rounds:
        two_apart["decisions"] *= SIZE  # of those, a process counts its own only
    speeds, per_cpu_second = (
        [[answer["decisions"] / answer[unit] for answer in answers] for answers in rounds]
        for unit in ("seconds", "cpu_seconds")
    )
    last = rounds[-1][2]
    return {
        "one": round(statistics.median(one for one, _, _ in speeds), 1),
        "two": round(statistics.median(two for _, _, two in speeds), 1),
        "ratio": round(statistics.median(two / one for one, _, two in speeds), 3),
        "apart": round(statistics.median(two / one for one, two, _ in speeds), 3),
        "CPU ratio": round(statistics.median(two / one for one, _, two in per_cpu_second), 3),
        "bytes": last["bytes"],
        "model": last["model"],
        "updates": last["updates"],
    }


def main(options: Options) -> None:
    """Measure, and print."""
    if options.worker:
        work_in_turns(options)
        return
    found: dict[str, Any] = {}
    works: dict[str, list[str]] = {}
    if options.work != "language":
        for rows in (64, 1024) if options.rows is None else (options.rows,):
            works[f"control, {rows} rows"] = ["--rows", str(rows), "--num-steps", str(options.num_steps)]
    if options.work != "control":
        works["language"] = []
    for name, arguments in works.items():
        load = os.getloadavg()[0]
        found[name] = {**measure(arguments, options.rounds), "load before": round(load, 1)}
        print(name, found[name], flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
