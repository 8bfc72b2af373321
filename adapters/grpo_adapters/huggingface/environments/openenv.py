"""Environments behind clients of OpenEnv."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from grpo_adapters.huggingface.environments.openings import opening_with, seed_of
from grpo_adapters.huggingface.event_loop import called
from grpo_adapters.huggingface.text.conversations import Message

NOT_OBSERVED = ("done", "reward", "metadata")


class OpenEnvEnvironment:
    """A client of OpenEnv as a partner of one conversation.

    Args:
        make_client: makes a client, or an environment itself; one that is still to be awaited is.
        action: from the model's message to an action.
        text: from an observation to what the model reads of it.
    """

    def __init__(
        self, make_client: Callable[[], Any], action: Callable[[Message], Any], text: Callable[[Any], str]
    ) -> None:
        self._make_client = make_client
        self._action = action
        self._text = text
        self._client: Any = None

    async def reset(self, state: Any) -> list[Message]:
        """Begin with the seed of the state; what is observed stands behind its prompt."""
        self._client = await _finished(await called(self._make_client, timeout=None))
        seed = seed_of(state)
        result = await self._ask("reset", **({} if seed is None else {"seed": seed}))
        return opening_with(state, self._text(getattr(result, "observation", result)))

    async def step(self, message: Message) -> tuple[list[Message], float, bool]:
        """Take the action that the message stands for."""
        result = await self._ask("step", self._action(message))
        observed = self._text(getattr(result, "observation", result))
        return [{"role": "user", "content": observed}], float(result.reward or 0.0), bool(result.done)

    async def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            await self._ask("close")

    async def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        function = getattr(self._client, method)
        # A client that can give a synchronous one of itself answers in the running event loop, others block.
        if hasattr(type(self._client), "sync"):
            return await _finished(function(*arguments, **named))
        return await called(function, *arguments, timeout=None, named=named)


def openenv_environment(
    make_client: Callable[[], Any],
    *,
    action: Callable[[Message], Any],
    text: Callable[[Any], str] | None = None,
) -> Callable[[], OpenEnvEnvironment]:
    """Lets a model talk to an environment of OpenEnv, through a client that awaits or that blocks, or to it directly.

    Each conversation has a client, and so a session, of its own, which is closed with it: the server must allow as many
    at once as a step has conversations. The column ``seed`` of a state, or the state itself where it is an integer, is
    the seed of the reset; without it, conversations of a group may begin in different ways.

    Args:
        make_client: makes a client.
        action: from the model's message to an action.
        text: from an observation to what the model reads of it; None for a string as it is, and else the fields as
            JSON, without the reward, ``done`` and metadata.

    Returns:
        What an :class:`AgentSampler` takes as ``environment``.

    Example:
        >>> from grpo_adapters.huggingface import AgentSampler
        >>> make_client = lambda: GenericEnvClient("http://127.0.0.1:8000")
        >>> sampler = AgentSampler(openenv_environment(make_client, action=lambda said: {"message": said["content"]}))
    """
    return lambda: OpenEnvEnvironment(make_client, action, text or observation_text)


def observation_text(observation: Any) -> str:
    """A string as it is, fields as JSON.

    Example:
        >>> observation_text({"board": "x.o", "done": False})
        '{"board": "x.o"}'
    """
    if isinstance(observation, str):
        return observation
    fields = observation.model_dump(mode="json") if hasattr(observation, "model_dump") else observation
    if not isinstance(fields, Mapping):
        raise TypeError(
            f"the observation is a {type(observation).__name__}, expected a string or fields: give openenv_environment "
            f"the argument text, from an observation to a string"
        )
    return json.dumps({name: value for name, value in fields.items() if name not in NOT_OBSERVED}, ensure_ascii=False)


async def _finished(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
