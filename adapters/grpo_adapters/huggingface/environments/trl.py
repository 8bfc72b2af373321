"""Environments as TRL's ``environment_factory`` makes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_adapters.huggingface.environments.openings import opening_with
from grpo_adapters.huggingface.event_loop import called
from grpo_adapters.huggingface.text.conversations import Message

Factory = Callable[[], Any]


class TRLEnvironment:
    """An environment of TRL as a partner of one conversation: its public methods are tools.

    Args:
        factories: by name, or one by None.
        idle: environments by name that no conversation has now.
    """

    def __init__(self, factories: Mapping[Any, Factory], idle: dict[Any, list[Any]]) -> None:
        self._factories = factories
        self._idle = idle
        self._name: str | None = None
        self._environment: Any = None

    async def reset(self, state: Any) -> list[Message] | None:
        """Begin with the columns of a row; what the environment tells stands behind the prompt."""
        row = dict(state) if isinstance(state, Mapping) else {"prompt": state}
        if None not in self._factories:
            self._name = row.pop("environment", None)
            if self._name not in self._factories:
                known = ", ".join(repr(name) for name in self._factories)
                raise ValueError(f"column 'environment' is {self._name!r}, expected one of {known}")
        idle = self._idle[self._name]
        self._environment = idle.pop() if idle else await called(self._factories[self._name], timeout=None)
        observation = await called(self._environment.reset, timeout=None, named=row)
        return None if observation is None else opening_with(state, observation)

    def get_tools(self) -> list[Callable[..., Any]]:
        """The public methods."""
        names = [name for name, _ in inspect.getmembers(type(self._environment), inspect.isfunction)]
        public = [name for name in names if not name.startswith("_") and name not in ("reset", "get_reward")]
        return [getattr(self._environment, name) for name in public]

    def step(self, message: Message) -> tuple[list[Message], float, bool]:
        """A turn without a call is the last."""
        return [], 0.0, True

    async def get_reward(self, messages: Sequence[Message]) -> float:
        """What the environment gives; 0 where it gives nothing, since rewards come from functions then."""
        own = getattr(self._environment, "get_reward", None)
        return 0.0 if own is None else float(await called(own, timeout=None))

    def close(self) -> None:
        """Leave the environment to the next conversation."""
        if self._environment is not None:
            self._idle[self._name].append(self._environment)
            self._environment = None


def trl_environment(factory: Factory | Mapping[str, Factory]) -> Callable[[], TRLEnvironment]:
    """Lets a model talk to environments that were written for TRL's ``environment_factory``.

    Such an environment has ``reset(**row) -> str | None``, which takes the columns of a row and may return what is put
    behind the prompt, methods with descriptions, which the model calls, and maybe ``get_reward() -> float`` for all of
    a conversation, however it ended. A conversation is over when the model calls nothing. As with TRL, an environment
    is kept, and reset for another conversation: what it draws at random it should seed by the row.

    Args:
        factory: makes an environment; or several of them by the name that a row has in its column ``environment``.

    Returns:
        What an :class:`AgentSampler` takes as ``environment``.

    Example:
        >>> from grpo_adapters.huggingface import AgentSampler
        >>> class Counter:
        ...     def reset(self, **row):
        ...         self.count = 0
        ...     def add(self, number: int) -> int:
        ...         '''Add to the count.
        ...
        ...         Args:
        ...             number: to add.
        ...         '''
        ...         self.count += number
        ...         return self.count
        ...     def get_reward(self) -> float:
        ...         return float(self.count == 5)
        >>> sampler = AgentSampler(trl_environment(Counter))
    """
    factories: Mapping[Any, Factory] = factory if isinstance(factory, Mapping) else {None: factory}
    idle: dict[Any, list[Any]] = {name: [] for name in factories}
    return lambda: TRLEnvironment(factories, idle)
