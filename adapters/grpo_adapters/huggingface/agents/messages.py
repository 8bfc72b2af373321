"""What a model's tokens say as a message, with the calls of tools that are in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.text.conversations import Message

TAGGED_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?(?: to=functions\.(?P<before>[\w.-]+))?<\|channel\|>(?P<channel>\w+)"
    r"(?: to=functions\.(?P<after>[\w.-]+))?[^<]*(?:<\|constrain\|>\w+)?<\|message\|>(?P<text>.*?)"
    r"(?:<\|end\|>|<\|call\|>|<\|return\|>|$)",
    re.DOTALL,
)


def parse_message(text: str) -> Message:
    """A message of the assistant, from its text with special tokens, less the token that ended it.

    Three ways of calling tools are known: JSON between ``<tool_call>`` and ``</tool_call>`` (Hermes, Qwen), a message
    that is nothing but a JSON object with ``name`` and ``parameters`` (Llama), and channels (GPT-OSS), whose analysis
    becomes the message's ``thinking``. What stands before ``</think>`` becomes its ``reasoning_content``, and calls in
    it are none. A call that cannot be read has arguments that are the text as it stands, and no name.

    Args:
        text: as the model wrote it.

    Returns:
        ``{"role": "assistant", "content": text}``, with ``tool_calls`` where there are any, each
        ``{"type": "function", "function": {"name": ..., "arguments": {...}}}``.

    Example:
        >>> message = parse_message('Let me see. <tool_call>{"name": "add", "arguments": {"first": 1}}</tool_call>')
        >>> message["content"], message["tool_calls"][0]["function"]
        ('Let me see.', {'name': 'add', 'arguments': {'first': 1}})
        >>> parse_message("Good day.")
        {'role': 'assistant', 'content': 'Good day.'}
    """
    if "<|channel|>" in text:
        return _of_channels(text)
    if "</think>" in text or text.lstrip().startswith("<think>"):
        thinking, closed, rest = text.rpartition("</think>")
        thinking = (thinking if closed else rest).strip().removeprefix("<think>").strip()
        return parse_message(rest.lstrip() if closed else "") | {"reasoning_content": thinking}
    tagged = TAGGED_CALL.findall(text)
    if tagged:
        return _message(TAGGED_CALL.sub("", text).strip(), [_call_of_json(own, "name") for own in tagged])
    stripped = text.removeprefix("<|python_tag|>").strip()
    if stripped.startswith("{") and stripped.endswith("}"):
        call = _call_of_json(stripped, "parameters")
        if call["name"]:
            return _message("", [call])
    return _message(text, [])


def message_of(
    tokenizer: PreTrainedTokenizerBase, said: str, whole: str, before: str, tools: Sequence[dict[str, Any]]
) -> Message:
    """What a model said as a message: by the tokenizer's own parser where it has one, else by :func:`parse_message`.

    Args:
        tokenizer: whose ``response_template`` tells how to parse; where that cannot read it, it is as if it had none.
        said: the text of the turn, with special tokens, less the one that ended it.
        whole: the same with it.
        before: the text of all messages that the model read, the empty one for a plain prompt.
        tools: schemas of the tools that there are.
    """
    if before and getattr(tokenizer, "response_template", None) is not None:
        try:
            parsed: Message = tokenizer.parse_response(whole, prefix=before, tools=list(tools) or None)
        except (ValueError, KeyError, TypeError):
            return parse_message(said)
        if all(_is_call(call) for call in parsed.get("tool_calls") or ()):
            return {"role": "assistant", "content": ""} | parsed
    return parse_message(said)


def checked_message(parsed: Any) -> Message:
    """What a parser of one's own made of a turn.

    Raises:
        TypeError: if it is no message of the assistant.
    """
    message: Message = parsed if isinstance(parsed, dict) else {}
    calls = message.get("tool_calls") or ()
    is_message = message.get("role") == "assistant" and isinstance(message.get("content"), str)
    if is_message and isinstance(calls, Sequence) and all(map(_is_call, calls)):
        return message
    raise TypeError(
        f"parse returned {parsed!r:.200}, expected {{'role': 'assistant', 'content': text}}, and under 'tool_calls' a "
        f"list of {{'type': 'function', 'function': {{'name': name, 'arguments': {{...}}}}}}"
    )


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _of_channels(text: str) -> Message:
    thinking: list[str] = []
    content: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in CHANNEL.finditer(text):
        name = part["before"] or part["after"]
        if name is not None:
            calls.append({"name": name, "arguments": _json_or_text(part["text"])})
        else:
            (thinking if part["channel"] == "analysis" else content).append(part["text"])
    message = _message("\n".join(content), calls)
    return message | {"thinking": "\n".join(thinking)} if thinking else message


def _message(content: str, calls: list[dict[str, Any]]) -> Message:
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message


def _call_of_json(text: str, mark: str) -> dict[str, Any]:
    """The call that an object with this key stands for."""
    call = _json_or_text(text)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return {"name": "", "arguments": text}
    given = call.get("arguments", call.get("parameters"))
    return {"name": call["name"] if mark in call or given is not None else "", "arguments": given}


def _json_or_text(text: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half of a character is none
    except (ValueError, RecursionError):
        return text
    return value
