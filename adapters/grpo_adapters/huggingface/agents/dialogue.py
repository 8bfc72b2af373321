"""One conversation of a model, turn by turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from grpo_adapters.huggingface.agents.environments import (
    TextEnvironment,
    TextEnvironmentError,
    checked_answer,
    checked_reward,
)
from grpo_adapters.huggingface.agents.history import History
from grpo_adapters.huggingface.agents.tools import Tool, ToolCallError
from grpo_adapters.huggingface.event_loop import called
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Conversation, Message, Turn


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a conversation is cut.

    Attributes:
        turns: of the model, at the most.
        context: tokens that the model may have read before a turn; None for any number.
        timeout: seconds that a tool, or the environment, may take to answer.
    """

    turns: int
    context: int | None
    timeout: float


class Dialogue:
    """A conversation under way.

    Args:
        history: what the model reads first.
        environment: answers what is no call of a tool; None where the conversation ends with such a turn.
        tools: by name.
        limits: where it is cut.

    Attributes:
        is_over: whether the model has had its last turn.
        num_calls: of tools.
        num_failed_calls: those that went wrong.
    """

    def __init__(
        self,
        history: History,
        environment: TextEnvironment | None,
        tools: Mapping[str, Tool],
        limits: Limits,
    ) -> None:
        self._history = history
        self._environment = environment
        self._tools = tools
        self._limits = limits
        self._turns: list[Turn] = []
        self._messages: list[Message] = []
        self._ended = False
        self._one_after_the_other = asyncio.Lock()
        self.is_over = False
        self.num_calls = 0
        self.num_failed_calls = 0

    @property
    def context(self) -> tuple[int, ...]:
        """Token ids that the model reads before its next turn."""
        return self._history.context

    @property
    def conversation(self) -> Conversation:
        """All that was said so far."""
        return Conversation(tuple(self._turns), tuple(self._messages), self._ended)

    async def hear(self, completion: Completion) -> None:
        """Let the model's turn be answered.

        Raises:
            TextEnvironmentError: if the environment fails.
        """
        context, said = self.context, self._history.message_of(completion)
        self._messages.append(said)
        answers: list[Message] = []
        reward, done, cut = 0.0, False, False
        if not completion.ended:  # it was cut in the middle of what it said
            done = True
        elif said.get("tool_calls") and self._tools:
            answers = list(await asyncio.gather(*map(self._answer_to_call, said["tool_calls"])))
        elif self._environment is not None:
            answers, reward, done, cut = await self._answer_of_environment(said)
        else:
            done = True
        self._turns.append(Turn(context, completion, reward))
        self._messages += answers
        self.is_over = done
        self._ended = done and completion.ended and not cut
        if not done:
            self._history.go_on(completion, said, answers)
            room = self._limits.context
            is_full = room is not None and len(self.context) > room
            self.is_over = is_full or len(self._turns) >= self._limits.turns
        if self.is_over and callable(getattr(self._environment, "get_reward", None)):
            await self._add_last_reward()

    async def _add_last_reward(self) -> None:
        """The reward that the environment gives for all of it, on top of the last turn's."""
        messages = [dict(message) for message in self._messages]
        given = await environment_call(self._environment, "get_reward", messages, timeout=self._limits.timeout)
        last = self._turns[-1]
        reward = last.reward + checked_reward(given, f"{type(self._environment).__name__}.get_reward")
        self._turns[-1] = replace(last, reward=reward)

    async def _answer_of_environment(self, said: Message) -> tuple[list[Message], float, bool, bool]:
        name = type(self._environment).__name__
        assert self._environment is not None
        returned = await environment_call(self._environment, "step", dict(said), timeout=self._limits.timeout)
        return checked_answer(returned, name)

    async def _answer_to_call(self, call: Any) -> Message:
        """The message of the tool that was called, or of what is wrong with the call."""
        self.num_calls += 1
        function = call.get("function", {})
        name = function.get("name") or ""
        try:
            tool = self._tool(name, function)
            # Functions that block may share state, such as methods of an environment: no two of them run at once.
            async with contextlib.nullcontext() if tool.is_async else self._one_after_the_other:
                content = await tool.call(function.get("arguments"), timeout=self._limits.timeout)
        except ToolCallError as error:
            self.num_failed_calls += 1
            content = f"error: {error}"
        answer = {"role": "tool", "name": name, "content": content}
        return answer | {"tool_call_id": call["id"]} if "id" in call else answer

    def _tool(self, name: str, function: Mapping[str, Any]) -> Tool:
        if name in self._tools:
            return self._tools[name]
        there_are = ", ".join(self._tools)
        if not name:
            raise ToolCallError(
                f"the call {str(function.get('arguments'))!r:.200} cannot be read; tools are {there_are}"
            )
        raise ToolCallError(f"there is no tool {name!r}; tools are {there_are}")


async def environment_tools(environment: Any, timeout: float) -> Iterable[Any]:
    """The functions that an environment lets the model call.

    Raises:
        TextEnvironmentError: if ``get_tools`` fails, or returns something else.
    """
    if not callable(getattr(environment, "get_tools", None)):
        return ()
    given = await environment_call(environment, "get_tools", timeout=timeout)
    if not isinstance(given, Iterable):
        name = type(environment).__name__
        raise TextEnvironmentError(f"{name}.get_tools returned {given!r:.100}, expected a list of functions")
    return given


async def environment_call(environment: Any, method: str, *arguments: Any, timeout: float) -> Any:
    """What a method of an environment returns.

    Raises:
        TextEnvironmentError: if it raises, or takes longer.
    """
    name = f"{type(environment).__name__}.{method}"
    given = ", ".join(repr(argument)[:200] for argument in arguments)
    try:
        return await called(getattr(environment, method), *arguments, timeout=timeout)
    except TimeoutError as error:
        raise TextEnvironmentError(f"{name}({given}) took longer than {timeout:g} seconds") from error
    except Exception as error:
        raise TextEnvironmentError(f"{name}({given}) raised {type(error).__name__}: {error}") from error
