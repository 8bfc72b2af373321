"""Tasks of verifiers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any

from grpo_adapters.huggingface.text.conversations import Message


class VerifiersEnvironment:
    """A task of verifiers as a partner of one conversation: it asks, and scores what came of it."""

    def __init__(self) -> None:
        self._task: Any = None
        self._opening: list[Message] = []

    def reset(self, state: Any) -> list[Message]:
        """Begin with the prompt of a task."""
        _check(state)
        self._task, data = state, state.data
        asked = data.prompt
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else [_plain(own) for own in asked]
        system = [{"role": "system", "content": data.system_prompt}] if data.system_prompt else []
        self._opening = [*system, *messages]
        return self._opening

    def step(self, message: Message) -> tuple[list[Message], float, bool]:
        """A turn without a call is the last."""
        return [], 0.0, True

    async def get_reward(self, messages: Sequence[Message]) -> float:
        """The weighted sum of the task's rewards and judges."""
        trace = trace_of(self._task, self._opening, messages)
        await self._task.score(trace)
        return float(trace.reward)


def verifiers_environment() -> Callable[[], VerifiersEnvironment]:
    """Lets a model do tasks of verifiers; each state is a task, and their rewards and judges score conversations.

    A conversation is over when the model calls no tool of the :class:`AgentSampler`. Tasks that need a container or
    another runtime, bring servers of tools, or stop and change what is said on the way, are refused.

    Returns:
        What an :class:`AgentSampler` takes as ``environment``.

    Example:
        >>> from grpo_adapters.huggingface import AgentSampler
        >>> sampler = AgentSampler(verifiers_environment())
        >>> # trainer.step(list(taskset.take(8)))
    """
    return VerifiersEnvironment


def trace_of(task: Any, opening: Sequence[Message], messages: Sequence[Message]) -> Any:
    """A conversation as verifiers' scoring reads it."""
    from verifiers import v1
    from verifiers.v1.state import state_cls

    about = v1.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    trace = v1.Trace(task=about, agent=v1.AgentInfo(config=v1.AgentConfig()), state=state_cls(type(task))())
    for place, message in enumerate(_with_call_ids([*opening, *messages])):
        sampled = place >= len(opening) and message["role"] == "assistant"
        parent = place - 1 if place else None
        trace.nodes.append(v1.MessageNode(parent=parent, message=message, sampled=sampled))
    trace.is_completed = trace.ok = True
    return trace


def _check(task: Any) -> None:
    from verifiers import v1

    if not isinstance(task, v1.Task):
        raise TypeError(f"the state is a {type(task).__name__}, expected a verifiers.v1.Task, such as a taskset yields")
    name = type(task).__name__
    scoring = [*task.hooks("reward"), *task.hooks("metric"), *(judge.score for judge in task.plugged_judges())]
    needs = {
        "a prompt": task.data.prompt is None,
        "a container": task.NEEDS_CONTAINER,
        "a runtime": any(_needs_runtime(function) for function in scoring)
        or any(getattr(type(task), hook) is not getattr(v1.Task, hook) for hook in ("setup", "finalize")),
        "servers of tools": bool(type(task).toolsets(task.config)),
        "to stop or change what is said": bool(task.hooks("stop"))
        or any(hasattr(function, "intercept") for function in vars(type(task)).values()),
    }
    if any(needs.values()):
        needed = ", ".join(what for what, is_so in needs.items() if is_so)
        raise ValueError(
            f"task {name} needs {needed}, which is not there: give its tools to AgentSampler(tools=...) and write its "
            f"environment as a TextEnvironment"
        )


def _needs_runtime(function: Callable[..., Any]) -> bool:
    parameter = inspect.signature(function).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _plain(message: Any) -> Message:
    return dict(message.model_dump(exclude_none=True))


def _with_call_ids(messages: Sequence[Message]) -> list[Message]:
    """Messages with calls as verifiers has them: arguments as JSON, and an identity that their answers bear."""
    typed: list[Message] = []
    open_calls: list[str] = []
    for place, message in enumerate(messages):
        own = dict(message)
        if own.get("tool_calls"):
            open_calls = [f"call_{place}_{index}" for index in range(len(own["tool_calls"]))]
            own["tool_calls"] = [
                {
                    "id": identity,
                    "name": call["function"]["name"],
                    "arguments": _json(call["function"].get("arguments")),
                }
                for identity, call in zip(open_calls, own["tool_calls"], strict=True)
            ]
        if own["role"] == "tool":
            own["tool_call_id"] = open_calls.pop(0)
        typed.append(own)
    return typed


def _json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
