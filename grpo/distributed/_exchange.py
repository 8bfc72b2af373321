"""What processes send each other, none of which waits for ever for one that has failed."""

from __future__ import annotations

import ctypes
import json
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed

from grpo.distributed._operation import SMALL, Kind, Operation, described, place_of_caller, what_of
from grpo.distributed.errors import RankError, RankLostError

LOOK = timedelta(seconds=0.05)
"""How long a process waits before it looks whether another one has failed."""


@dataclass
class Open:
    """The connections to the other processes, and what is on its way over them."""

    group: Any = None
    under_way: dict[int, Operation] = field(default_factory=dict)


def _keep_what_is_under_way(kept: Open) -> None:
    """Let connections last as long as this process where their end would wait for operations that never come."""
    if kept.under_way:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


class Exchange:
    """Collective operations over gloo that a failure ends on all processes at the same place.

    Operations are counted. A process that fails notes its error, and the operation that it will not come to, in a store
    that all of them share; the others come there, find the note, and raise. Before the next operation all of them end
    those that any has begun, so that nothing is left on its way.

    Args:
        store: shared by all processes.
        rank: of this process.
        size: number of processes.
        timeout: seconds that one waits for the others.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._timeout = timeout
        self._num_failures = 0
        self._notes = self._notes_after(0)
        self._open = Open()
        weakref.finalize(self, _keep_what_is_under_way, self._open)
        self._count = 0
        self._began_last = 0.0
        self._failed_at: int | None = None
        self._lost: str | None = None
        self.num_bytes = 0

    def begin(self, kind: Kind, tensor: Tensor) -> Operation:
        """Begin to reduce a tensor of the CPU in place, or to gather those of all processes, which have one shape."""
        if self._lost is not None:
            raise RankLostError(self._lost)
        if self._failed_at is not None:
            self._settle(self._failed_at)
        if self._open.group is None:
            self._connect()
        elif time.monotonic() - self._began_last > self._timeout:  # the others may have given this process up
            self._raise_what_is_noted(self._count)
        return self._start(kind, tensor, place_of_caller())

    def wait(self, operation: Operation) -> None:
        """Wait for the end of an operation, or for the failure of a process that does not come to it.

        Raises:
            RankError: if another process has failed and does not come to it.
            RankLostError: if another process is gone, does not come in time, or does something else.
        """
        if self._lost is not None:
            raise RankLostError(self._lost)
        self._wait(operation, lambda: self._raise_what_is_noted(operation.index))

    def fail(self, error: BaseException) -> None:
        """Let the others know that this process does not come to the next operation."""
        if self._lost is not None:
            return
        if self._failed_at is not None:
            self._settle(self._failed_at)
        text = f"rank {self._rank} failed: {type(error).__name__}: {error}"
        classes = [kind.__name__ for kind in type(error).__mro__]
        self._note({"rank": self._rank, "operation": self._count, "text": text, "classes": classes})
        self._failed_at = self._count

    def _notes_after(self, num_failures: int) -> Any:
        return distributed.distributed_c10d.PrefixStore(f"grpo/{num_failures}", self._store)

    def _start(self, kind: Kind, tensor: Tensor, place: str) -> Operation:
        operation = Operation(self._count, kind, tensor, place)
        self._began_last = time.monotonic()
        self._count += 1
        self.num_bytes += tensor.nbytes
        try:
            if kind == "gather" or operation.is_labelled or tensor.nbytes * self._size <= SMALL:
                message = operation.message
                operation.gathered = [torch.empty_like(message) for _ in range(self._size)]
                operation.work = self._open.group.allgather([operation.gathered], [message])
            else:
                options = distributed.distributed_c10d.AllreduceOptions()
                options.reduceOp = getattr(distributed.ReduceOp, kind)
                operation.work = self._open.group.allreduce([tensor], options)
        except RuntimeError as error:
            self._lose(f"an operation could not be begun ({_first_line(error)})", error)
        self._open.under_way[operation.index] = operation
        return operation

    def _wait(self, operation: Operation, look: Callable[[], None]) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                operation.work.wait(LOOK)
                break
            except RuntimeError as error:
                look()
                if operation.work.is_completed():
                    self._raise_broken(operation.work)
                    break
                if time.monotonic() > deadline:
                    self._lose_those_missing(f"waits/{operation.index}", error)
        del self._open.under_way[operation.index]
        operation.open()
        if operation.is_labelled:
            self._require_same(operation.labels)
        operation.end()

    def _require_same(self, labels: list[bytes]) -> None:
        """Lose all processes, with what each of two does, where they have come to different places."""
        if labels.count(labels[0]) == len(labels):
            return
        first, *others = (label.decode(errors="replace").rstrip() for label in labels)
        for rank, other in enumerate(others, start=1):
            if what_of(other) != what_of(first):
                self._lose(
                    f"the processes do different things: rank 0 is at {described(first)}, rank {rank} at "
                    f"{described(other)}. Give all of them the same trainer, run, folder, callbacks and Until, and "
                    f"let what asks a World for sums do so on each of them, also where it has no samples",
                    None,
                )

    def _connect(self) -> None:
        """Meet the others."""
        self._meet("here")
        self._raise_what_is_noted(0)
        limit = timedelta(seconds=self._timeout + 60)  # waiting is bounded here, sooner
        try:
            self._open.group = distributed.distributed_c10d.ProcessGroupGloo(self._notes, self._rank, self._size, limit)
        except RuntimeError as error:
            self._lose(f"the {self._size} processes could not be connected ({_first_line(error)})", error)

    def _meet(self, place: str, value: str = "") -> None:
        """Wait until all have come to a place, or one has failed and does not come."""
        deadline = time.monotonic() + self._timeout
        pause = 0.001
        try:
            self._notes.set(f"{place}/{self._rank}", value)
            while not self._notes.check([f"{place}/{rank}" for rank in range(self._size)]):
                if place == "here":
                    self._raise_what_is_noted(0)
                if time.monotonic() > deadline:
                    self._lose_those_missing(place, None)
                time.sleep(pause)
                pause = min(2 * pause, LOOK.total_seconds())
        except (RankError, RankLostError):
            raise
        except RuntimeError as error:
            self._lose("the store that all processes share is gone", error)

    def _settle(self, failed_at: int) -> None:
        """After a failure: end together with the others whatever any process has begun."""
        own = [self._open.under_way[index].form for index in range(failed_at, self._count)]
        self._meet("begun", json.dumps(own))
        begun = [json.loads(self._notes.get(f"begun/{rank}")) for rank in range(self._size)]
        for kind, numel, dtype, place in max(begun, key=len)[len(own) :]:
            self._start(kind, torch.zeros(numel, dtype=getattr(torch, dtype)), place)
        for operation in list(self._open.under_way.values()):
            self._wait(operation, lambda: None)
        self._failed_at = None
        self._num_failures += 1
        self._notes = self._notes_after(self._num_failures)

    def _note(self, failure: dict[str, Any]) -> None:
        try:
            self._notes.compare_set("failure", "", json.dumps(failure))
        except RuntimeError:  # the store is gone, and the others with it
            self._lost = f"rank {self._rank} could not tell the others of its failure: the store is gone"

    def _raise_what_is_noted(self, index: int) -> None:
        """Raise the failure of another process, if it is one that never comes to this operation."""
        try:
            if not self._notes.check(["failure"]):
                return
            failure = json.loads(self._notes.get("failure"))
        except RuntimeError as error:
            self._lose("the store that all processes share is gone", error)
        if failure["operation"] > index:
            return
        if failure["rank"] is None:
            self._lost = failure["text"]
            raise RankLostError(failure["text"])
        self._failed_at = failure["operation"]
        raise RankError(failure["text"], failure["rank"], failure["classes"])

    def _raise_broken(self, work: Any) -> None:
        """Raise what an operation has ended with, unless it ended well right after the last look."""
        try:
            work.wait()
        except RuntimeError as error:
            who = f"rank {1 - self._rank}" if self._size == 2 else "another process"
            self._lose(f"{who} is gone ({_first_line(error)})", error)

    def _lose_those_missing(self, place: str, cause: BaseException | None) -> NoReturn:
        """Say which processes did not come, by asking those that did."""
        missing: list[int] = []
        try:
            self._notes.set(f"{place}/{self._rank}", "")
            time.sleep(min(1.0, self._timeout))
            missing = [rank for rank in range(self._size) if not self._notes.check([f"{place}/{rank}"])]
        except RuntimeError:
            pass  # the store is gone, and who is missing cannot be told
        if self._failed_at is None:  # else it is the failure after which all were to meet
            self._raise_what_is_noted(sys.maxsize)
        who = f"rank {', '.join(map(str, missing))}" if missing else "another process"
        self._lose(f"{who} did not come to where the others are within {self._timeout:g} s", cause)

    def _lose(self, what: str, cause: BaseException | None) -> NoReturn:
        """End this process's part for good, and the others'."""
        text = f"{what}: start all processes again, from the last checkpoint where there is one"
        self._note({"rank": None, "operation": 0, "text": text, "classes": []})
        self._lost = text
        raise RankLostError(text) from cause


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
