"""Environments of one vector in this process, others in processes beside it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from grpo_adapters.gym.environments.environment_workers import CALL, DESCRIBE, GET, Call, EnvironmentWorker, Steps


class ParallelVectorEnv(SyncVectorEnv):
    """A vector environment whose environments step at once in several processes, a block of them in each.

    This process steps the first block, while each worker steps one of its own; so all cores are at work, and an
    environment costs no process. What comes out is what :class:`gymnasium.vector.SyncVectorEnv` gives, to the last bit.
    It pays where the steps of a block take several times as long as a message to another process and back, some 0.1 ms,
    and cores are idle; those of LunarLander do not. Where there is a core for each of the processes, one that waits
    keeps its own busy for a millisecond before it goes to sleep, since waking up takes as long as such a message.

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
            EnvironmentWorker(
                process_context,
                env_fns[start:end],
                range(start, end),
                resets_at_once=autoreset_mode is AutoresetMode.SAME_STEP,
                num_processes=num_workers + 1,
            )
            for start, end in pairwise(bounds[1:])
        ]
        near = env_fns[: bounds[1]]
        far = [
            partial(_FarEnvironment, worker, number)
            for worker in self._workers
            for number in range(len(worker.indices))
        ]
        super().__init__([*near, *far], copy=False, autoreset_mode=autoreset_mode)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Begin new episodes, as SyncVectorEnv does."""
        for worker in self._workers:
            worker.forget()
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        """Take a step in all environments, those of the workers at the same time as those here."""
        each = actions
        if not isinstance(actions, np.ndarray) or isinstance(self.action_space, spaces.Dict | spaces.Tuple):
            each = list(iterate(self.action_space, actions))
        for worker in self._workers:
            worker.begin(self._asked_of(worker.indices, each))
        return super().step(actions)

    def _asked_of(self, indices: range, actions: Any) -> Steps | list[Call]:
        own = slice(indices.start, indices.stop)
        resets = self._autoreset_envs[own]
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP or not resets.any():
            return Steps(actions[own])
        return [
            Call(number, "reset") if is_reset else Call(number, "step", (action,))
            for number, (action, is_reset) in enumerate(zip(actions[own], resets, strict=True))
        ]

    def close_extras(self, **kwargs: Any) -> None:
        """Close all environments, and end the workers."""
        super().close_extras(**kwargs)
        for worker in self._workers:
            worker.end()


class _FarEnvironment(gymnasium.Env[Any, Any]):
    """An environment in another process."""

    def __init__(self, worker: EnvironmentWorker, number: int) -> None:
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
