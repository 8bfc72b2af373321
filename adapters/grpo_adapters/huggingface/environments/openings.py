"""What a model reads first: the prompt of a state, then an observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_adapters.huggingface.text.conversations import Message
from grpo_adapters.huggingface.text.states import prompt_of


def messages_of(state: Any) -> list[Message]:
    """The messages of a state's prompt, a string as the user's; none where the state has no prompt.

    Example:
        >>> messages_of({"prompt": "Find the key.", "seed": 3}), messages_of({"seed": 3}), messages_of(3)
        ([{'role': 'user', 'content': 'Find the key.'}], [], [])
    """
    has_prompt = "prompt" in state if isinstance(state, Mapping) else isinstance(state, Sequence)
    prompt = prompt_of(state) if has_prompt else []
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def opening_with(state: Any, observation: str) -> list[Message]:
    """The messages of a state's prompt, with an observation behind the user's last words, or as the user's only ones.

    Example:
        >>> opening_with({"prompt": "Find the key. "}, "You are in a hall.")
        [{'role': 'user', 'content': 'Find the key. You are in a hall.'}]
        >>> opening_with(3, "You are in a hall.")
        [{'role': 'user', 'content': 'You are in a hall.'}]
    """
    messages = messages_of(state)
    if not messages or messages[-1]["role"] != "user":
        return [*messages, {"role": "user", "content": observation}]
    return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + observation}]


def seed_of(state: Any) -> int | None:
    """The seed of a state: its column ``seed``, or the state itself where it is an integer."""
    seed = state.get("seed") if isinstance(state, Mapping) else state
    return seed if isinstance(seed, int) else None
