"""What it takes two processes of this machine to hear of each other, in milliseconds.

A message to another process and back by a pipe; a sum over gloo of few, of some and of many numbers, by
:class:`grpo.World`; and a step of two environments that do nothing, one here and one in another process, by
``ParallelVectorEnv``, less that of both here. Before each, this process is at work for half a millisecond, as with a
policy, so that the other one has gone to sleep. Medians and 9th deciles of many times; the last line holds them as
JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from grpo import World
from grpo_adapters.gym import ParallelVectorEnv

CALLS, WARM_UP = 1000, 50
SECONDS_BETWEEN = 5e-4
SIZES = (10, 10_000, 1_000_000)


class Nothing(gymnasium.Env[Any, Any]):
    """An environment whose steps take no time."""

    observation_space = spaces.Box(-1.0, 1.0, (8,))
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(8, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(8, np.float32), 0.0, False, False, {}


def milliseconds(call: Callable[[], object], calls: int = CALLS) -> dict[str, float]:
    """The median and the 9th decile of a call."""
    seconds = []
    for _ in range(WARM_UP + calls):
        end = time.perf_counter() + SECONDS_BETWEEN
        while (start := time.perf_counter()) < end:
            pass
        call()
        seconds.append(time.perf_counter() - start)
    counted = seconds[WARM_UP:]
    return {
        "median": round(statistics.median(counted) * 1e3, 3),
        "9th decile": round(statistics.quantiles(counted, n=10)[-1] * 1e3, 3),
    }


def answer(line: Connection) -> None:
    """Send back whatever comes, until None does."""
    while (came := line.recv()) is not None:
        line.send(came)


def message() -> dict[str, float]:
    """To another process and back."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=answer, args=(there,))
    process.start()

    def there_and_back() -> None:
        here.send(0)
        here.recv()

    told = milliseconds(there_and_back)
    here.send(None)
    process.join()
    return told


def sums(rank: int, port: int, told: Any) -> None:
    """What the first of two processes sees of sums over both."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    world = World.from_environment()
    for size in SIZES:
        numbers, calls = torch.ones(size), CALLS // (10 if size == max(SIZES) else 1)
        own = milliseconds(lambda numbers=numbers: world.sum(numbers), calls)  # type: ignore[misc]
        if rank == 0:
            told[f"a sum of {size:,} numbers"] = own
    torch.distributed.destroy_process_group()


def environments() -> dict[str, float]:
    """A step of two environments in two processes, less that in one."""
    makers: list[Callable[[], gymnasium.Env[Any, Any]]] = [Nothing, Nothing]
    actions, apart, here = np.zeros(2, np.int64), ParallelVectorEnv(makers), SyncVectorEnv(makers)
    times = []
    for envs in (apart, here):
        envs.reset(seed=0)
        times.append(milliseconds(lambda envs=envs: envs.step(actions)))  # type: ignore[misc]
        envs.close()
    return {name: round(times[0][name] - times[1][name], 3) for name in times[0]}


def main() -> None:
    """Run and print."""
    with multiprocessing.Manager() as manager:
        told = manager.dict({"a message and its answer": message()})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [multiprocessing.Process(target=sums, args=(rank, port, told)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found = {**told, "environments in another process, a step": environments()}
    for name, own in found.items():
        print(f"{name:42}{own['median']:8.3f} ms, 9th decile {own['9th decile']:8.3f} ms")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
