"""What a language model is asked: a string, chat messages, or a row of a table with a column ``prompt`` of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Action, Conversation, Message

Prompt = str | list[Message]

EXPECTED = (
    'expected a string, a list of chat messages {"role": ..., "content": ...}, or a row '
    '{"prompt": string or messages, ...}'
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A prompt and what was answered to it.

    Attributes:
        prompt: a string, or chat messages that end before the answer.
        text: the answer; where the messages ended in the assistant's own words, it begins with them. The last of the
            model's turns where there were several.
        messages: all that was said in a conversation; None for a single answer.
    """

    prompt: Prompt
    text: str
    messages: tuple[Message, ...] | None = None

    @property
    def completion(self) -> Prompt:
        """The answer as reward functions take it: text after text, a list of one message after messages.

        A conversation is the list of its messages, whatever the prompt.
        """
        if self.messages is not None:
            return [dict(message) for message in self.messages]
        return self.text if isinstance(self.prompt, str) else [{"role": "assistant", "content": self.text}]

    def __str__(self) -> str:
        asked = self.prompt if isinstance(self.prompt, str) else str(self.prompt[-1].get("content"))
        return f"prompt {_beginning(asked)}, completion {_beginning(self.text)}"


def prompt_of(state: Any, index: int | None = None) -> Prompt:
    """The prompt of a state, with messages as copies, so that changing them does not change the state.

    Args:
        state: a string, chat messages, or a row.
        index: of the state, to name in errors.

    Raises:
        TypeError: if it is none of these.

    Example:
        >>> prompt_of({"prompt": "What is 6 times 7?", "answer": "42"})
        'What is 6 times 7?'
        >>> prompt_of([{"role": "user", "content": "What is 6 times 7?"}])
        [{'role': 'user', 'content': 'What is 6 times 7?'}]
    """
    name = "the state" if index is None else f"state {index}"
    if isinstance(state, Mapping):
        if "prompt" not in state:
            lone = ": a chat message alone is no state, put it in a list" if "role" in state else ""
            raise TypeError(f"{name} is a row with the columns {sorted(map(str, state))}, {EXPECTED}{lone}")
        name, state = f"column 'prompt' of {name}", state["prompt"]
    if isinstance(state, str):
        return state
    if not isinstance(state, Sequence) or isinstance(state, bytes):
        raise TypeError(f"{name} is a {type(state).__name__}, {EXPECTED}")
    if not state:
        raise TypeError(f"{name} is an empty {type(state).__name__}, {EXPECTED}")
    return [_checked_message(message, f"message {place} of {name}") for place, message in enumerate(state)]


def own_copy(value: Any) -> Any:
    """A value with dicts, lists and sets in it as copies, so that changing them does not change the state.

    Example:
        >>> state = {"prompt": "a", "code": [1, 2]}
        >>> own_copy(state)["code"].pop(), state["code"]
        (2, [1, 2])
    """
    if type(value) is dict:
        return {key: own_copy(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(own_copy, value))
    return set(value) if type(value) is set else value


def ends_in_own_words(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of what the assistant is to say; one that calls tools is whole."""
    return messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")


def columns_of(states: Sequence[Any]) -> dict[str, list[Any]]:
    """What the rows say besides their prompts, by column, [N] each; nothing where the states are no rows.

    Raises:
        TypeError: if only some states are rows.
        ValueError: if the rows have different columns.

    Example:
        >>> columns_of([{"prompt": "2 + 2 =", "answer": "4"}, {"prompt": "3 + 3 =", "answer": "6"}])
        {'answer': ['4', '6']}
    """
    columns: list[str] | None = None
    for index, state in enumerate(states):
        own = list(state) if isinstance(state, Mapping) else None
        if index == 0:
            columns = own
        elif (own is None) != (columns is None):
            raise TypeError(
                f"state {index} is a {type(state).__name__}, state 0 a {type(states[0]).__name__}: give all states as "
                f"rows, with the same columns, or none"
            )
        elif own != columns and own is not None and columns is not None and set(own) != set(columns):
            raise ValueError(
                f"state {index} has the columns {sorted(map(str, own))}, state 0 {sorted(map(str, columns))}: all rows "
                f"need the same ones; put None where a row has no value"
            )
    return {column: [state[column] for state in states] for column in columns or () if column != "prompt"}


def exchanges_of(states: Sequence[Any], actions: Sequence[Action]) -> list[Exchange]:
    """Each state's prompt with the completion, or the conversation, that was given to it.

    Raises:
        TypeError: if a state has no prompt, or an action is no completion.
        ValueError: if there are more of the ones than of the others.
    """
    if len(states) != len(actions):
        raise ValueError(f"there are {len(states)} states and {len(actions)} actions, expected one state each action")
    exchanges = []
    for index, (state, action) in enumerate(zip(states, actions, strict=True)):
        if isinstance(action, Conversation):
            exchanges.append(Exchange(prompt_of(state, index), action.text, action.messages))
            continue
        if not isinstance(action, Completion):
            raise TypeError(f"action {index} is a {type(action).__name__}, expected a Completion of a language model")
        prompt, text = prompt_of(state, index), action.text
        if not isinstance(prompt, str) and len(prompt) > 1 and ends_in_own_words(prompt):
            text = f"{prompt.pop().get('content') or ''}{text}"
        exchanges.append(Exchange(prompt, text))
    return exchanges


def describe_completion(state: Any, completion: Action) -> tuple[str, str]:
    """A prompt and what was answered to it as two texts, for ``grpo.SampleLog(describe=describe_completion)``.

    Args:
        state: a string, chat messages, which get a line each, or a row with a column ``prompt`` of either.
        completion: the answer, or a conversation, whose messages get a line each.

    Returns:
        The prompt, and the answer.

    Raises:
        TypeError: if the state has no prompt, or the completion is none.

    Example:
        >>> describe_completion({"prompt": "6+7=", "answer": "13"}, Completion((3, 5, 0), "13"))
        ('6+7=', '13')
        >>> describe_completion([{"role": "user", "content": "6+7?"}], Completion((3, 5, 0), "13"))
        ('user: 6+7?', '13')
    """
    [exchange] = exchanges_of([state], [completion])
    prompt, said = exchange.prompt, exchange.messages
    return prompt if isinstance(prompt, str) else _lines(prompt), exchange.text if said is None else _lines(said)


def _lines(messages: Sequence[Message]) -> str:
    """Messages as text, a line each."""
    said = ((message["role"], message.get("content"), message.get("tool_calls")) for message in messages)
    return "\n".join(
        f"{role}: {' '.join(str(part) for part in (content, calls) if part)}" for role, content, calls in said
    )


def _checked_message(message: Any, name: str) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        lone = ": each state has a prompt of its own" if isinstance(message, str) else ""
        raise TypeError(f'{name} is {_beginning(message)}, expected {{"role": "user", "content": "..."}}{lone}')
    if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
        raise TypeError(
            f"{name} has content of type {type(message.get('content')).__name__}, expected a string: language models "
            f"take text only"
        )
    return dict(message)


def _beginning(value: Any) -> str:
    """The first 60 characters, texts in quotes."""
    text = value if isinstance(value, str) else repr(value)
    beginning = repr(text[:60]) if isinstance(value, str) else text[:60]
    return beginning if len(text) <= 60 else f"{beginning}..."
