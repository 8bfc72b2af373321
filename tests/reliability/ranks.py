"""Let one process of several fail, again and again, and see that the others go on with it or end in time.

    PYTHONPATH=tests python tests/reliability/ranks.py --faults 200

Ranks are processes that are forked from this one, so that nothing is imported twice, and end as an interpreter does.
After an error both are to be bit by bit as they were before the step, and then to train on as if nothing had happened.
After a kill, or while a rank hangs, the others are to end within the time limit. The last line holds counts as JSON.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process with threads must not be forked

import faulthandler
import gc
import json
import random
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from torch._C._distributed_c10d import TCPStore

import grpo.training._rollback
from grpo import RankError, RankLostError, Until, World
from reliability.faulty_training import Fault, Faults, digests, training

KINDS = ("kill", "hang", "raise", "out of memory", "NaN", "NaN, skipped")
MENDED = ("raise", "out of memory", "NaN")
BEFORE, AFTER = 1, 2  # steps
SLACK = 8.0  # seconds to end in
LOST = 3


@dataclass(frozen=True)
class Options:
    """What fails, and how often."""

    faults: int = 200
    """How many."""
    seed: int = 0
    """Of the faults and the trainings."""
    timeout: float = 3.0
    """Seconds that ranks wait for each other."""
    ranks: int | None = None
    """How many there are; None for 2, and 4 in one of five cases."""
    only: int | None = None
    """Number of the only fault, to see it again."""


@dataclass(frozen=True)
class Case:
    """A training in which one rank fails."""

    seed: int
    size: int
    fault: Fault
    timeout: float
    copies_all: bool
    """Whether parameters are as good as small, so that they are copied before each step in any case."""

    @classmethod
    def of(cls, options: Options, number: int) -> Case:
        """The one of a number."""
        draws = random.Random(f"{options.seed} {number}")
        size = options.ranks or draws.choice([2, 2, 2, 2, 4])
        kind = KINDS[number % len(KINDS)]
        fault = Fault(kind, draws.randrange(size), draws.randrange(2**30), seconds=2 * options.timeout + 2)
        return cls(draws.randrange(2**30), size, fault, options.timeout, draws.random() < 0.5)


def take_part(world: World, case: Case, answers: int) -> int:
    """Be a rank; the status to exit with. What is found is written to ``answers``, a line each."""

    def tell(**what: Any) -> None:
        os.write(answers, (json.dumps({"rank": world.rank, "time": time.monotonic(), **what}) + "\n").encode())

    if not case.copies_all:
        grpo.training._rollback.SMALL = 0
    skips = case.fault.kind == "NaN, skipped"
    fault = replace(case.fault, kind="NaN") if skips else case.fault
    faults = Faults(lambda place: tell(fails=place))
    settings: dict[str, Any] = {"skips": skips, "may_be_empty": fault.rank == world.size - 1}
    try:
        undisturbed, notes = training(world, faults, case.seed, **settings)
        undisturbed(Until(steps=BEFORE))
        faults.passed.clear()
        undisturbed(Until(steps=BEFORE + 1))
        passed = faults.passed.copy()
        undisturbed(Until(steps=BEFORE + AFTER))
        expected = notes.last

        run, notes = training(world, faults, case.seed, **settings)
        _let_fail_in_collectives(world, faults)
        faults.passed.clear()
        run(Until(steps=BEFORE))
        in_collectives = {place: faults.passed[place] for place in ("collective", "wait")}
        faults.passed.clear()
        if world.rank == fault.rank:
            faults.arm(fault, passed | in_collectives)
        error = None
        try:
            run(Until(steps=BEFORE + 1 + (not skips)))
        except Exception as raised:
            if isinstance(raised, RankLostError):
                raise
            error = raised
        changed = [name for name, value in digests(run.trainer).items() if value != notes.last[name]]
        run(Until(steps=BEFORE + AFTER))
        after = digests(run.trainer)
        differs = [] if skips else [name for name, value in after.items() if value != expected[name]]
        shared = [after[name] for name in ("num_steps", "optimizer", "generator", "policy", "part objective")]
    except RankLostError as lost:
        tell(lost=str(lost))
        return LOST
    cause = getattr(error, "__cause__", None) if type(error).__name__ == "CallbackError" else error
    named = error.rank if isinstance(error, RankError) else None
    tell(error=type(cause).__name__, message=str(cause), named=named, changed=changed, differs=differs, shared=shared)
    return 0


def _let_fail_in_collectives(world: World, faults: Faults) -> None:
    """Let an exchange be a place that fails: before it is begun, and while it is waited for."""
    exchange: Any = world._exchange
    begin, wait = exchange.begin, exchange.wait

    def begin_or_fail(*arguments: Any) -> Any:
        faults.at("collective")
        return begin(*arguments)

    def wait_or_fail(operation: Any) -> None:
        faults.at("wait")
        wait(operation)

    exchange.begin, exchange.wait = begin_or_fail, wait_or_fail


def hold_store(ports: int, count: int) -> TCPStore:
    """Hold the store that all ranks share, and let so many others know where."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(ports, store.port.to_bytes(4, "little") * count)
    return store


def fork_rank(rank: int, case: Case, ports: tuple[int, int], answers: tuple[int, int]) -> int:
    """Begin a rank; the id of its process."""
    process = os.fork()
    if process > 0:
        return process
    signal.alarm(120)
    faulthandler.dump_traceback_later(100)
    try:
        store = TCPStore("127.0.0.1", int.from_bytes(os.read(ports[0], 4), "little"), is_master=False)
        status = take_part(World(store, rank, case.size, timeout=case.timeout), case, answers[1])
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.exit(status)  # as a script ends, with all that an interpreter waits for


def fork_holder(case: Case, ports: tuple[int, int]) -> int:
    """Begin the process that holds the store, as torchrun does; its id."""
    process = os.fork()
    if process > 0:
        return process
    store = hold_store(ports[1], case.size)
    while store is not None:
        time.sleep(1)
    os._exit(0)


def play(case: Case) -> tuple[list[dict[str, Any]], dict[int, tuple[int | None, float]]]:
    """What ranks told, and of each with what status it ended and when; None for one that did not end."""
    ports, answers = os.pipe(), os.pipe()
    sys.stdout.flush()
    holder = fork_holder(case, ports)
    running = {fork_rank(rank, case, ports, answers): rank for rank in range(case.size)}
    ends: dict[int, tuple[int | None, float]] = {}
    deadline = time.monotonic() + 110
    while running and time.monotonic() < deadline:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended in running:
            ends[running.pop(ended)] = (os.waitstatus_to_exitcode(status), time.monotonic())
        time.sleep(0.005)
    for process, rank in running.items():
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        ends[rank] = (None, time.monotonic())
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    os.close(answers[1])
    with os.fdopen(answers[0]) as lines:
        told = [json.loads(line) for line in lines]
    for end in ports:
        os.close(end)
    return told, ends


def problems(case: Case, told: list[dict[str, Any]], ends: dict[int, tuple[int | None, float]]) -> list[str]:
    """What a fault has led to that it must not."""
    found = [f"rank {rank} did not end" for rank, (status, _) in ends.items() if status is None]
    fault = case.fault
    fails = [line for line in told if "fails" in line]
    if len(fails) != 1 or fails[0]["rank"] != fault.rank:
        return [*found, f"expected rank {fault.rank} to fail once, got {fails}"]
    for rank, (status, ended) in ends.items():
        own = {name: value for line in told if line["rank"] == rank for name, value in line.items()}
        if fault.kind in ("kill", "hang"):
            expected = -signal.SIGKILL if fault.kind == "kill" and rank == fault.rank else LOST
            seconds = ended - fails[0]["time"]
            limit = case.timeout + SLACK + (fault.seconds if rank == fault.rank else 0.0)
            if status != expected or seconds > limit:
                found.append(f"rank {rank} left with {status} after {seconds:.1f} s, expected {expected}")
        elif status != 0:
            found.append(f"rank {rank} left with {status}, expected 0: {own.get('lost', 'see above')}")
        else:
            found += [f"rank {rank}: {text}" for text in _differences(fault, rank, own)]
    shared = [line["shared"] for line in told if "shared" in line]
    if any(one != shared[0] for one in shared):
        found.append("the ranks have come apart")
    return found


def _differences(fault: Fault, rank: int, own: dict[str, Any]) -> list[str]:
    """Where a rank did not raise what it should have, was not put back, or went on otherwise."""
    found = []
    if fault.kind in MENDED:
        expected = {"raise": "FaultError", "out of memory": "OutOfMemoryError", "NaN": "NonFiniteError"}[fault.kind]
        is_own = own["error"] == expected and (rank == fault.rank or fault.kind == "NaN")
        if not is_own and (own["error"] != "RankError" or own["named"] is None or rank == fault.rank):
            found.append(f"raised {own['error']}: {own['message']}")
        if own["named"] not in (None, fault.rank) and fault.kind != "NaN":
            found.append(f"named rank {own['named']}, expected {fault.rank}")
    elif own["error"] != "NoneType":
        found.append(f"raised {own['error']}: {own['message']}")
    if own["changed"]:
        found.append(f"not put back: {', '.join(own['changed'])}")
    if own["differs"]:
        found.append(f"not as it would have been: {', '.join(own['differs'])}")
    return found


def main(options: Options) -> int:
    """Let ranks fail, and say how they bore it; 1 where they did not."""
    torch.set_num_threads(1)
    training(World(), Faults(), 0, skips=False, may_be_empty=False)[0](Until(steps=1))  # imports what ranks import
    gc.collect()
    gc.freeze()  # what is imported stays in memory that processes share
    kinds: Counter[str] = Counter()
    places: Counter[str] = Counter()
    slowest: dict[str, float] = {"kill": 0.0, "hang": 0.0}
    bad = []
    for number in range(options.faults) if options.only is None else [options.only]:
        case = Case.of(options, number)
        told, ends = play(case)
        found = problems(case, told, ends)
        kinds[case.fault.kind] += 1
        fails = next((line for line in told if "fails" in line), None)
        if fails is not None:
            places[fails["fails"]] += 1
            if case.fault.kind in slowest:
                took = [ended - fails["time"] for rank, (_, ended) in ends.items() if rank != case.fault.rank]
                slowest[case.fault.kind] = round(max([slowest[case.fault.kind], *took]), 2)
        if found:
            bad.append({"number": number, "case": repr(case), "problems": found})
            print(f"{number}: {case}, {told}: {'; '.join(found)}", flush=True)
    report = {"faults": sum(kinds.values()), "kinds": kinds, "places": places}
    report |= {"seconds to end": slowest, "bad": len(bad)}
    print(json.dumps(report), flush=True)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
