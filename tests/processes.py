"""Processes for tests to run functions in, started once and used again."""

from __future__ import annotations

import atexit
import multiprocessing
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT = 60.0
SIZES = (1, 2, 4)


class RanksError(AssertionError):
    """A function raised on some ranks; ``errors`` has what it raised on each, None where it did not."""

    def __init__(self, errors: list[BaseException | None], traces: list[str]) -> None:
        super().__init__("\n".join(f"rank {rank}: {trace}" for rank, trace in enumerate(traces)))
        self.errors = errors


class Ranks:
    """``size`` processes that wait for functions to run, each of which is given a world of all of them."""

    def __init__(self, size: int) -> None:
        from torch._C._distributed_c10d import TCPStore

        context = multiprocessing.get_context("forkserver")
        adapters = [name for name in ("grpo_adapters.huggingface",) if name in sys.modules]
        context.set_forkserver_preload(["torch", "torch.distributed.checkpoint", "grpo", *adapters])
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.size = size
        self.connections: list[Connection] = []
        self.processes = []
        self.count = 0
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, size, self.store.port), daemon=True)
            process.start()
            there.close()
            self.connections.append(here)
            self.processes.append(process)
        atexit.register(self.close)

    def __call__(self, function: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
        """What a function of a module returns on each rank, given a world and the arguments."""
        answers = self.answers(function, *arguments, timeout=timeout)
        if any(error is not None for _, error, _ in answers):
            raise RanksError([error for _, error, _ in answers], [trace for _, _, trace in answers])
        return [value for value, _, _ in answers]

    def answers(self, function: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
        """On each rank: what is returned, the error, its trace."""
        self.count += 1
        for connection in self.connections:
            connection.send((self.count, function, arguments, timeout))
        answers = []
        for rank, connection in enumerate(self.connections):
            if not connection.poll(2 * timeout + 60):
                self.close()
                _started.cache_clear()
                raise AssertionError(f"rank {rank} does not answer: it hangs in {function.__name__}")
            try:
                answers.append(connection.recv())
            except EOFError:
                answers.append((None, ProcessLookupError(f"rank {rank} is gone"), "gone"))
        if any(not process.is_alive() for process in self.processes):
            self.close()
            _started.cache_clear()
        return answers

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()


@cache
def _started(size: int) -> Ranks:
    return Ranks(size)


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
    """What a function of a module returns on each of ``size`` ranks, given a world and the arguments."""
    return _started(size)(function, *arguments, timeout=timeout)


def answers_of_ranks(size: int, function: Callable[..., Any], *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
    """The same, errors among it."""
    return _started(size).answers(function, *arguments, timeout=timeout)


@contextmanager
def process_group(world: Any) -> Iterator[None]:
    """PyTorch's own process group of the ranks, for what does not go by the world."""
    from torch import distributed
    from torch._C._distributed_c10d import HashStore, PrefixStore

    store = HashStore() if world.is_alone else world._exchange._store
    own = PrefixStore("process group", store)
    distributed.init_process_group(
        "gloo", store=own, rank=world.rank, world_size=world.size, timeout=timedelta(seconds=world.timeout)
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _serve(connection: Connection, rank: int, size: int, port: int) -> None:
    import torch
    from torch._C._distributed_c10d import PrefixStore, TCPStore

    from grpo import World

    torch.set_num_threads(1)
    store: Any = TCPStore("127.0.0.1", port, is_master=False)
    while True:
        count, function, arguments, timeout = connection.recv()
        world = World(PrefixStore(f"task/{count}", store.clone()), rank, size, timeout=timeout) if size > 1 else World()
        answer: tuple[Any, BaseException | None, str]
        try:
            answer = (function(world, *arguments), None, "")
        except BaseException as error:
            world.fail(error)
            answer = (None, error, traceback.format_exc())
        try:
            connection.send(answer)
        except Exception as error:
            connection.send((None, RuntimeError(f"{type(error).__name__}: {error}; {answer[2]}"), answer[2]))
