"""Other forms of what an assistant said, for chat templates that do not take the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_adapters.huggingface.text.conversations import Message


def with_thinking_inside(message: Message, text: str) -> Message:
    """A message whose content begins with its thinking, as it stood in the text; the same where there is no such tag.

    All templates that know ``<think>`` take it so, and those that do not know it keep it.

    Example:
        >>> said = {"role": "assistant", "content": "5", "reasoning_content": "2 + 3"}
        >>> with_thinking_inside(said, "<think>2 + 3</think> 5")["content"].split()
        ['<think>2', '+', '3</think>', '5']
    """
    if "reasoning_content" not in message:
        return message
    thinking, tag, _ = text.rpartition("</think>")
    rest = {key: value for key, value in message.items() if key != "reasoning_content"}
    if tag:
        return rest | {"content": f"{thinking}{tag}\n\n{message['content']}"}
    return rest | {"content": text} if "<think>" in text else message


def simpler_forms(message: Message) -> list[Message]:
    """A message, and its first call alone, where a template takes nothing beside calls, or no call that is malformed.

    Example:
        >>> call = {"type": "function", "function": {"name": "", "arguments": '{"a": '}}
        >>> forms = simpler_forms({"role": "assistant", "content": "a", "thinking": "b", "tool_calls": [call]})
        >>> ["thinking" in form for form in forms], [form["content"] for form in forms]
        ([True, False], ['a', ''])
        >>> forms[-1]["tool_calls"]
        [{'type': 'function', 'function': {'name': '', 'arguments': {}}}]
    """
    forms = [message]
    if message.get("tool_calls"):
        forms.append({"role": "assistant", "content": "", "tool_calls": [_well_formed(message["tool_calls"][0])]})
    return forms


def _well_formed(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    return {**call, "function": {**function, "arguments": arguments if isinstance(arguments, Mapping) else {}}}
