"""Environments of one vector in this process, others in processes beside it."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, iterate

Call = tuple[int, str, tuple[Any, ...], dict[str, Any]]
"""Which environment of a process is to do what."""


class ParallelVectorEnv(SyncVectorEnv):
    """A vector environment whose environments step at once in several processes, a block of them in each.

    This process steps the first block, while each worker steps one of its own; so all cores are at work, and an
    environment costs no process. What comes out is what :class:`gymnasium.vector.SyncVectorEnv` gives, to the last bit.
    It pays where the steps of a block take several times as long as a message to another process and back, some 0.1 ms,
    and cores are idle; those of LunarLander do not.

    Args:
        env_fns: functions that make the environments.
        num_workers: processes beside this one, fewer than environments.
        autoreset_mode: what happens when an episode ends.
        context: how processes are started, as :func:`multiprocessing.get_context` has it; None for the default.

    Raises:
        ValueError: if there are not more environments than workers, or no worker.

    Example:
        >>> envs = ParallelVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 4)
        >>> observations, _ = envs.reset(seed=0)
        >>> observations.shape
        (4, 4)
        >>> envs.close()

    The environments of workers are not in a state: a :class:`FragmentSampler` of them needs
    ``environments_in_state="restart"``.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]],
        num_workers: int = 1,
        *,
        autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP,
        context: str | None = None,
    ) -> None:
        if not 0 < num_workers < len(env_fns):
            raise ValueError(
                f"num_workers is {num_workers}, expected from 1 to {len(env_fns) - 1}: each of them, and this process, "
                f"has one of {len(env_fns)} environments at least"
            )
        bounds = np.linspace(0, len(env_fns), num_workers + 2).astype(int).tolist()
        process_context = multiprocessing.get_context(context)
        self._workers = [
            _Worker(process_context, env_fns[start:end], range(start, end), autoreset_mode)
            for start, end in pairwise(bounds[1:])
        ]
        near = env_fns[: bounds[1]]
        far = [partial(_same, own) for worker in self._workers for own in worker.environments]
        super().__init__([*near, *far], copy=False, autoreset_mode=autoreset_mode)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Begin new episodes, as SyncVectorEnv does."""
        for worker in self._workers:
            worker.forget()
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        """Take a step in all environments, those of the workers at the same time as those here."""
        each = list(iterate(self.action_space, actions))
        for worker in self._workers:
            worker.begin([each[index] for index in worker.indices], self._autoreset_envs[worker.indices])
        return super().step(actions)

    def close_extras(self, **kwargs: Any) -> None:
        """Close all environments, and end the workers."""
        super().close_extras(**kwargs)
        for worker in self._workers:
            worker.end()


class _Worker:
    """A process with some environments, as this one sees it.

    Args:
        context: starts processes.
        env_fns: make the environments.
        indices: of the environments in the vector.
        mode: what happens when an episode ends.
    """

    def __init__(self, context: Any, env_fns: Sequence[Callable[[], Any]], indices: range, mode: AutoresetMode) -> None:
        self.indices = list(indices)
        self._mode = mode
        self._connection, theirs = context.Pipe()
        functions = [CloudpickleWrapper(function) for function in env_fns]
        self._process = context.Process(target=_work, args=(theirs, self._connection, functions), daemon=True)
        self._process.start()
        theirs.close()
        self._is_awaited = False
        self._results: list[deque[Any]] = [deque() for _ in indices]
        self.environments = [_FarEnvironment(self, number) for number in range(len(self.indices))]

    def begin(self, actions: Sequence[Any], resets: Any) -> None:
        """Let each environment take a step, or reset, while this process does something else."""
        self.forget()
        calls: list[Call] = [
            (number, "reset", (), {})
            if reset and self._mode is AutoresetMode.NEXT_STEP
            else (number, "step", (own,), {})
            for number, (own, reset) in enumerate(zip(actions, resets, strict=True))
        ]
        self._send(calls)

    def result(self, number: int, name: str, *arguments: Any, **options: Any) -> Any:
        """What a method of an environment returns, begun before or now."""
        if self._is_awaited:
            self._receive()
        if not self._results[number]:
            self._send([(number, name, arguments, options)])
            self._receive()
        result = self._results[number].popleft()
        if isinstance(result, Exception):
            raise result
        return result

    def forget(self) -> None:
        """Drop what was begun and not asked for, after an error elsewhere."""
        if self._is_awaited:
            self._receive()
        for results in self._results:
            results.clear()

    def _send(self, calls: list[Call]) -> None:
        try:
            self._connection.send((self._mode is AutoresetMode.SAME_STEP, calls))
        except OSError as error:
            raise self._gone() from error
        self._is_awaited = True

    def _receive(self) -> None:
        self._is_awaited = False
        try:
            told = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        for number, result in told:
            self._results[number].append(result)

    def _gone(self) -> RuntimeError:
        self._process.join(1)
        return RuntimeError(
            f"the process of environments {self.indices[0]} to {self.indices[-1]} has ended (exit code "
            f"{self._process.exitcode}): make the ParallelVectorEnv anew"
        )

    def end(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._connection.send(None)
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


class _FarEnvironment(gymnasium.Env[Any, Any]):
    """An environment in another process."""

    def __init__(self, worker: _Worker, number: int) -> None:
        self._worker = worker
        self._number = number
        described = worker.result(number, DESCRIBE)
        self.observation_space, self.action_space, self.metadata, self.render_mode = described

    def step(self, action: Any) -> Any:
        return self._worker.result(self._number, "step", action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._worker.result(self._number, "reset", seed=seed, options=options)

    def render(self) -> Any:
        return self._worker.result(self._number, "render")

    def close(self) -> None:
        """Its process closes it."""

    def get_wrapper_attr(self, name: str) -> Any:
        is_method, value = self._worker.result(self._number, GET, name)
        return partial(self._worker.result, self._number, CALL, name) if is_method else value

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        was_there: bool = self._worker.result(self._number, "set_wrapper_attr", name, value, force=force)
        return was_there


DESCRIBE, GET, CALL = "describe", "get", "call"
"""What a worker does with an environment, beside calling its methods."""
DESCRIBED = ("observation_space", "action_space", "metadata", "render_mode")


def _same(environment: _FarEnvironment) -> _FarEnvironment:
    return environment


def _work(connection: Connection, parents: Connection, env_fns: Sequence[Callable[[], Any]]) -> None:
    """Do what environments are asked for, until told to end, or the other end is closed."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that trains
    environments: list[Any] = [None] * len(env_fns)
    with suppress(EOFError, OSError):
        while (asked := connection.recv()) is not None:
            resets_at_once, calls = asked
            results: list[tuple[int, Any]] = []
            for number, name, arguments, options in calls:
                try:
                    if environments[number] is None:
                        environments[number] = env_fns[number]()
                    result = _called(environments[number], name, arguments, options)
                    results.append((number, result))
                    if name == "step" and resets_at_once and (result[2] or result[3]):
                        results.append((number, environments[number].reset()))
                except Exception as error:
                    results.append((number, error))
            try:
                connection.send(results)
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                failure = RuntimeError(f"what it gave cannot be sent to another process: {error}")
                connection.send([(number, failure) for number, *_ in calls])
    for environment in environments:
        if environment is not None:
            environment.close()


def _called(environment: Any, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if name == DESCRIBE:
        return tuple(getattr(environment, each) for each in DESCRIBED)
    if name == GET:
        value = environment.get_wrapper_attr(*arguments)
        return (True, None) if callable(value) else (False, value)
    if name == CALL:
        method, *arguments_of_method = arguments
        return environment.get_wrapper_attr(method)(*arguments_of_method, **options)
    return getattr(environment, name)(*arguments, **options)
