"""Kill trainings again and again, resume them, and compare what they wrote with a run that was never killed.

    PYTHONPATH=tests python tests/reliability/kill.py --kills 200

An attempt is a process that is forked from this one, so that nothing is imported twice. Most are killed after a random
time; the others kill themselves before a random one of their operations on files, which falls within saving.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process with threads must not be forked

import gc
import json
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from reliability.trainings import TRACKED, TRAININGS

UNFINISHED = ".unfinished-*"
SHARE_AT_OPERATIONS = 0.35
LAST_OPERATION = 40  # a save with all that is deleted after it makes about 20
OPERATIONS = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"})
NOT_REPEATED = ("seconds", "times")
SECONDS_OF_A_HANG = 120.0


@dataclass(frozen=True)
class Options:
    """What is killed, and how often."""

    kills: int = 200
    """Kills of each training."""
    training: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Name of a training, given as often as there are names; all of them by default."""
    seed: int = 0
    """Of the moments at which is killed."""


@dataclass
class Report:
    """How a training bore it."""

    kills: int = 0
    within_saving: int = 0
    resumes: int = 0
    runs: int = 0
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = "OK" if not self.differences else "\n  ".join(["", *self.differences[:12]])
        return (
            f"{self.kills} kills, {self.within_saving} of them within saving, {self.resumes} resumes, "
            f"{self.runs} runs: {verdict}"
        )


def fork(name: str, folder: Path, *, operation: int | None = None) -> int:
    """Begin an attempt to bring a training to its end, or go on with it, in a process of its own; its id.

    Args:
        name: of the training.
        folder: of the run.
        operation: on files, counted from 1, before which it kills itself; None for none.
    """
    sys.stdout.flush()
    process = os.fork()
    if process > 0:
        return process
    status = 1
    try:
        warnings.filterwarnings("error", message=".*not whole")  # what was killed is whole or not there
        if operation is not None:
            _die_before(operation)
        run, until = TRAININGS[name](folder)
        run.resume()
        run(until)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _die_before(operation: int) -> None:
    """Let this process be killed before one of its operations that change files."""
    remaining = operation

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal remaining
        writes = event in OPERATIONS or (event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wax")
        if writes:
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def wait(process: int, seconds: float) -> int | None:
    """The exit status of a process, negative for a signal; None where it goes on for longer than so many seconds."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(min(0.001, max(0.0, end - time.monotonic())))


def train(name: str, folder: Path) -> float:
    """Bring a training to its end; how many seconds that took.

    Raises:
        RuntimeError: if it does not come to its end.
    """
    began = time.monotonic()
    status = wait(fork(name, folder), SECONDS_OF_A_HANG)
    if status != 0:
        raise RuntimeError(f"{name} left with {status}, expected 0; what it raised stands above")
    return time.monotonic() - began


def attempt(name: str, folder: Path, seconds: float, draws: random.Random) -> bool:
    """Begin or go on, and be killed; whether it was, rather than come to its end before."""
    if draws.random() < SHARE_AT_OPERATIONS:
        status = wait(fork(name, folder, operation=draws.randint(1, LAST_OPERATION)), SECONDS_OF_A_HANG)
    else:
        process = fork(name, folder)
        status = wait(process, seconds * draws.random() ** 1.5)
        if status is None:
            os.kill(process, signal.SIGKILL)
            status = wait(process, SECONDS_OF_A_HANG)
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{name} in {folder} left with {status}; what it raised stands above")
    return status != 0


def kill_again_and_again(name: str, kills: int, seed: int, scratch: Path) -> Report:
    """Kill a training so many times, in as many runs as that takes, and compare each with one that was never killed."""
    draws, report = random.Random(f"{name} {seed}"), Report()
    whole = scratch / name / "never killed"
    seconds = train(name, whole)
    expected = contents(whole)
    while report.kills < kills and not report.differences:
        folder = scratch / name / f"{report.runs}"
        report.runs += 1
        is_over = False
        while report.kills < kills and not is_over:
            report.resumes += any((folder / "checkpoints").glob("step-*"))
            is_over = not attempt(name, folder, seconds, draws)
            report.kills += not is_over
            report.within_saving += not is_over and has_unfinished(folder)
        if not is_over:
            report.resumes += any((folder / "checkpoints").glob("step-*"))
            train(name, folder)
        report.differences = list(differences(expected, contents(folder)))
    return report


def has_unfinished(folder: Path) -> bool:
    """Whether something was being saved when a run was killed."""
    return any(folder.rglob(UNFINISHED))


def contents(folder: Path) -> dict[str, Any]:
    """All that a run has written and that is to be the same where it is repeated, by path and name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("SHA256SUMS", "times.jsonl"):
            found |= _parts(_content(path), str(path.relative_to(folder)))
    return found


def differences(expected: dict[str, Any], actual: dict[str, Any]) -> Iterator[str]:
    """Each part of what was written that differs."""
    for name in expected | actual:
        if name not in actual:
            yield f"{name} is missing"
        elif name not in expected:
            yield f"{name} is there, but not in the run that was never killed"
        elif expected[name] != actual[name]:
            yield f"{name} differs"


def _content(path: Path) -> Any:
    """A file as what can be compared; what it says of wall time is left out."""
    if path.name == "state.pt":
        return torch.load(path, weights_only=True)
    if path.name == TRACKED:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [{name: value for name, value in line.items() if not name.startswith("time/")} for line in lines]
    return path.read_bytes()


def _parts(value: Any, name: str) -> dict[str, Any]:
    """What nested containers hold, by name; tensors as their bytes, so that what is equal is so to the last bit."""
    if isinstance(value, torch.Tensor):
        return {name: (value.dtype, value.shape, value.stride(), bytes(value.flatten().view(torch.uint8).numpy()))}
    if isinstance(value, dict):
        return {
            place: leaf
            for key, part in value.items()
            if key not in NOT_REPEATED and not str(key).endswith("Track")
            for place, leaf in _parts(part, f"{name}/{key}").items()
        }
    if isinstance(value, list | tuple):
        return {
            place: leaf for index, part in enumerate(value) for place, leaf in _parts(part, f"{name}/{index}").items()
        }
    return {name: repr(value)}


def main(options: Options) -> int:
    """Kill the trainings, and say how they bore it; 1 where one did not."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what is imported stays in memory that processes share
    names = options.training or tuple(TRAININGS)
    failed = False
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            report = kill_again_and_again(name, options.kills, options.seed, Path(scratch))
        print(f"{name:15} {report} ({time.monotonic() - began:.0f} s)", flush=True)
        failed |= bool(report.differences)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
