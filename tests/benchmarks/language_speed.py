"""Seconds of a GRPO step on a language model, and the memory it takes: this library beside TRL.

Each side is a process of its own, ``our_step.py`` and ``trl_step.py``, with the whole machine while it is its turn and
asleep while it is not; after warming up they take turns, step by step. What a step is stands in ``language_work.py``.
A ratio of times is the median over the rounds of the ratio within a round, of seconds on the clock and of CPU time, all
threads together. Memory is the largest resident set that a process has had (``ru_maxrss``), and, besides, that without
what it had when everything was imported. The last line holds the ratios as JSON.

Besides the whole batch at once, both run in micro-batches of 8 completions: TRL accumulates gradients over four.

Where others use the machine, threads that wait for each other by spinning cost both sides many times their work: then
set ``OMP_WAIT_POLICY=PASSIVE``, and look at CPU time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tyro

SMALL = 8
HERE = Path(__file__).parent
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    quick: bool = False
    """Only the tiny model."""
    rounds: int = 31
    """Steps of each on the tiny model."""
    large_rounds: int = 5
    """Steps of each on the model of 124M parameters."""


@dataclass(frozen=True)
class Contender:
    """Who takes turns, and how."""

    script: str
    micro_batch_size: int

    def arguments(self, *, size: str, lengths: str) -> list[str]:
        """The script and its options."""
        return [
            *(str(HERE / self.script), "--size", size, "--lengths", lengths),
            *("--micro-batch-size", str(self.micro_batch_size)),
        ]


CONTENDERS = {
    "TRL": Contender("trl_step.py", 32),
    "ours": Contender("our_step.py", 32),
    "TRL, parts of 8": Contender("trl_step.py", SMALL),
    "ours, parts of 8": Contender("our_step.py", SMALL),
}


class Worker:
    """A process that makes a step when asked to.

    Args:
        arguments: the script and its options.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.command = [sys.executable, *arguments]
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | ENVIRONMENT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def step(self) -> dict[str, float]:
        """Let it make a step; what it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker has died; see what it says: echo step | {' '.join(self.command)}")
        answer: dict[str, float] = json.loads(line)
        return answer


def measure(contenders: Mapping[str, Sequence[str]], *, rounds: int, warm_up: int) -> dict[str, list[dict[str, float]]]:
    """What everyone answered in each round after the first few."""
    with ExitStack() as running:
        workers = {name: running.enter_context(Worker(arguments)) for name, arguments in contenders.items()}
        for worker in workers.values():
            for _ in range(warm_up):
                worker.step()
        answers = [{name: worker.step() for name, worker in workers.items()} for _ in range(rounds)]
    return {name: [answer[name] for answer in answers] for name in workers}


def report(answers: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Print a table; the ratios to TRL's."""
    theirs = answers["TRL"]
    ratios: dict[str, float] = {}
    print(f"  {'':18}{'step':>9}{'CPU time':>11}{'tokens':>8}{'peak':>11}{'imports':>11}", end="")
    print("   to TRL: step  CPU time  memory  without imports")
    for name, own in answers.items():
        last, last_of_theirs = own[-1], theirs[-1]
        found = {
            "step": median_ratio(own, theirs, "seconds"),
            "CPU time": median_ratio(own, theirs, "cpu_seconds"),
            "memory": last["peak_mib"] / last_of_theirs["peak_mib"],
            "memory without imports": (last["peak_mib"] - last["imported_mib"])
            / (last_of_theirs["peak_mib"] - last_of_theirs["imported_mib"]),
        }
        step, cpu = (statistics.median(answer[key] for answer in own) for key in ("seconds", "cpu_seconds"))
        length = statistics.fmean(answer["mean_length"] for answer in own)
        print(f"  {name:18}{step:7.3f} s{cpu:9.3f} s{length:8.1f}{last['peak_mib']:7.0f} MiB", end="")
        print(f"{last['imported_mib']:7.0f} MiB{found['step']:15.3f}{found['CPU time']:10.3f}", end="")
        print(f"{found['memory']:8.3f}{found['memory without imports']:17.3f}", flush=True)
        if name != "TRL":
            ratios |= {f"{name}, {what}": ratio for what, ratio in found.items()}
    return ratios


def median_ratio(own: list[dict[str, float]], theirs: list[dict[str, float]], key: str) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(mine[key] / its[key] for mine, its in zip(own, theirs, strict=True))


def main(options: Options) -> None:
    """Run all cases and print."""
    ratios: dict[str, float] = {}
    sizes: dict[str, Any] = {"tiny": {"rounds": options.rounds, "warm_up": 3}}
    if not options.quick:
        sizes["gpt2"] = {"rounds": options.large_rounds, "warm_up": 1}
    for size, turns in sizes.items():
        for lengths in ("fixed", "varied"):
            print(f"{size}, {lengths} lengths; load of the machine before {os.getloadavg()[0]:.1f}", flush=True)
            commands = {name: each.arguments(size=size, lengths=lengths) for name, each in CONTENDERS.items()}
            found = report(measure(commands, **turns))
            ratios |= {f"{size}, {lengths}: {name}": round(ratio, 3) for name, ratio in found.items()}
    print(json.dumps(ratios))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
