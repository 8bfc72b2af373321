"""Processes that step environments for this one."""

from __future__ import annotations

import copy
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

DESCRIBE, GET, CALL = "describe", "get", "call"
"""What a worker does with an environment, beside calling its methods."""
DESCRIBED = ("observation_space", "action_space", "metadata", "render_mode")
FLOATS = (float, np.float64, np.float32)
LARGEST_INTEGER = 2**53
PATIENCE = 1e-3
"""Seconds for which a process that has a core to itself looks out for a message before it goes to sleep."""


class Call(NamedTuple):
    """What one of the environments of a process is to do."""

    number: int
    name: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it


class Result(NamedTuple):
    """What a call came to."""

    number: int
    name: str
    value: Any


class Steps(NamedTuple):
    """A step of all environments of a process, with an action each."""

    actions: Any


class PackedSteps(NamedTuple):
    """What steps came to where nothing was but observations and rewards: several times as fast to send."""

    dtype: str
    shape: tuple[int, ...]
    observations: bytes
    rewards: list[float]

    @classmethod
    def of(cls, steps: Sequence[Any]) -> PackedSteps | None:
        """What environments gave, one step each; None where something else was, or not all are alike."""
        first = steps[0][0] if steps and isinstance(steps[0], tuple) else None
        if type(first) is not np.ndarray or first.dtype.kind not in "biuf":
            return None
        dtype, shape = first.dtype, first.shape
        for step in steps:
            if not isinstance(step, tuple) or len(step) != 5:
                return None
            observation, reward, terminated, truncated, info = step
            is_usual = (
                type(observation) is np.ndarray
                and observation.dtype == dtype
                and observation.shape == shape
                and (type(reward) in FLOATS or (type(reward) is int and abs(reward) <= LARGEST_INTEGER))
                and (terminated is False or terminated is np.False_)
                and (truncated is False or truncated is np.False_)
                and type(info) is dict
                and not info
            )
            if not is_usual:
                return None
        observations = b"".join([step[0].tobytes() for step in steps])
        return cls(dtype.str, shape, observations, [float(step[1]) for step in steps])

    def unpacked(self) -> list[Result]:
        """The results."""
        every = np.frombuffer(bytearray(self.observations), self.dtype).reshape(len(self.rewards), *self.shape)
        return [
            Result(number, "step", (every[number, ...], reward, False, False, {}))
            for number, reward in enumerate(self.rewards)
        ]


class EnvironmentWorker:
    """A process with some environments, as this one sees it.

    Args:
        context: starts processes.
        env_fns: make the environments.
        indices: of the environments in the vector.
        resets_at_once: whether an environment whose episode ended is reset in the same step.
        num_processes: that are at work, with this one.
    """

    def __init__(
        self,
        context: Any,
        env_fns: Sequence[Callable[[], Any]],
        indices: range,
        *,
        resets_at_once: bool,
        num_processes: int,
    ) -> None:
        self.indices = indices
        self._connection, theirs = context.Pipe()
        self._patience = PATIENCE if num_processes <= _num_cores() else 0.0
        functions = [CloudpickleWrapper(function) for function in env_fns]
        arguments = (theirs, self._connection, functions, resets_at_once, self._patience)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._num_asked = 0
        self._is_awaited = self._is_broken = False
        self._results: list[deque[Result]] = [deque() for _ in indices]

    def begin(self, asked: Steps | list[Call]) -> None:
        """Let environments do something, while this process does something else."""
        self.forget()
        self._send(asked)

    def result(self, number: int, name: str, *arguments: Any, **options: Any) -> Any:
        """What a method of an environment returns, begun before or now."""
        if self._is_awaited:
            self._receive()
        results = self._results[number]
        if not results or results[0].name != name:
            self.forget()
            self._send([Call(number, name, arguments, options)])
            self._receive()
        value = results.popleft().value
        if isinstance(value, Exception):
            raise value
        return value

    def forget(self) -> None:
        """Drop what was begun and not asked for, after an error elsewhere."""
        if self._is_awaited:
            self._receive()
        for results in self._results:
            results.clear()

    def _send(self, asked: Steps | list[Call]) -> None:
        with self._in_one_go():
            self._num_asked += 1
            self._connection.send((self._num_asked, asked))
            self._is_awaited = True

    def _receive(self) -> None:
        while self._is_awaited:
            _wait(self._connection, self._patience)
            with self._in_one_go():
                answered, told = self._next_answer()
                if answered < self._num_asked:  # an interrupt left it here
                    continue
                self._is_awaited = False
                for result in told.unpacked() if isinstance(told, PackedSteps) else told:
                    self._results[result.number].append(result)

    def _next_answer(self) -> tuple[int, Any]:
        try:
            answer: tuple[int, Any] = self._connection.recv()
        except (EOFError, OSError):
            raise
        except Exception as error:
            self._is_awaited = False
            raise RuntimeError(f"{self} gave what cannot be unpickled in this process: {error}") from error
        return answer

    @contextmanager
    def _in_one_go(self) -> Iterator[None]:
        """What is interrupted in here leaves half of a message behind, and the process is of no more use."""
        if self._is_broken:
            raise self._gone()
        try:
            yield
        except (EOFError, OSError) as error:
            raise self._gone() from error
        except KeyboardInterrupt:
            self._is_broken = True
            self._process.kill()
            raise

    def _gone(self) -> RuntimeError:
        self._process.join(1)
        return RuntimeError(f"{self} has ended (exit code {self._process.exitcode}): make the ParallelVectorEnv anew")

    def __repr__(self) -> str:
        return f"the process of environments {self.indices[0]} to {self.indices[-1]}"

    def end(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._connection.send(None)
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


def _work(
    connection: Connection,
    parents: Connection,
    env_fns: Sequence[Callable[[], Any]],
    resets_at_once: bool,
    patience: float,
) -> None:
    """Do what environments are asked for, until told to end, or the other end is closed."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that trains
    environments: list[Any] = [None] * len(env_fns)
    with suppress(EOFError, OSError):
        while (message := _next_message(connection, patience)) is not None:
            ordinal, asked = message
            calls = asked
            if isinstance(asked, Steps):
                calls = [Call(number, "step", (own,)) for number, own in enumerate(asked.actions)]
            results: list[Result] = []
            for number, name, arguments, options in calls:
                try:
                    if environments[number] is None:
                        environments[number] = env_fns[number]()
                    value = _called(environments[number], name, arguments, options)
                    if name == "step" and resets_at_once and (value[2] or value[3]):
                        *rest, info = value  # which the reset may write over
                        results.append(Result(number, name, (*rest, copy.deepcopy(info))))
                        results.append(Result(number, "reset", environments[number].reset()))
                    else:
                        results.append(Result(number, name, value))
                except Exception as error:
                    results.append(Result(number, name, _sendable(error)))
            packed = PackedSteps.of([result.value for result in results]) if isinstance(asked, Steps) else None
            try:
                connection.send((ordinal, packed or results))
            except OSError:
                raise
            except Exception as error:
                failure = RuntimeError(f"what it gave cannot be sent to another process: {error}")
                connection.send((ordinal, [Result(call.number, call.name, failure) for call in calls]))
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


def _sendable(error: Exception) -> Exception:
    """The error, or one that says what it said where another process could not make it."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # its own
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _next_message(connection: Connection, patience: float) -> Any:
    _wait(connection, patience)
    return connection.recv()


def _wait(connection: Connection, patience: float) -> None:
    """Wait for a message; a process that is awake when it comes hears of it some 0.1 ms sooner."""
    end = perf_counter() + patience
    while not connection.poll():
        if perf_counter() >= end:
            connection.poll(None)


def _num_cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
