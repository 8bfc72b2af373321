"""What a language model talks to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Protocol, runtime_checkable

from grpo_adapters.huggingface.text.conversations import Message


class TextEnvironmentError(RuntimeError):
    """An environment raised an error, took too long, or returned what it must not; the message says which and what."""


@runtime_checkable
class TextEnvironment(Protocol):
    """A partner of one conversation. There may be ``get_tools``, ``get_reward`` and ``close`` besides.

    ``get_tools() -> functions`` gives tools of this environment, methods of it for instance, besides those of the
    :class:`AgentSampler`; it is called after ``reset``. ``get_reward(messages) -> float`` is called once a conversation
    is over, however it ended, with all that was said after its opening; what it returns is added to the reward of the
    last turn. ``close()`` is called at the end of all conversations of a step. All of them may be ``async``.

    Example:
        >>> class GuessTheNumber:
        ...     def reset(self, state):
        ...         self.number = state["number"]
        ...         return [{"role": "user", "content": "Which number from 1 to 9?"}]
        ...     def step(self, message):
        ...         if message["content"] == str(self.number):
        ...             return [], 1.0, True
        ...         return [{"role": "user", "content": "No."}], 0.0, False
        >>> isinstance(GuessTheNumber(), TextEnvironment)
        True
    """

    def reset(self, state: Any) -> Any:
        """Begin a conversation.

        Args:
            state: the state that the conversation is an action for.

        Returns:
            The messages that the model reads first, ``{"role": ..., "content": ...}`` each; None for the prompt of the
            state.
        """
        ...

    def step(self, message: Message) -> Any:
        """Answer a message of the model.

        Args:
            message: ``{"role": "assistant", "content": text}``, with ``tool_calls`` where the model made any that no
                tool was there for.

        Returns:
            The messages that answer it, the reward of the model's turn, and whether the conversation is over. A fourth
            thing may say whether a limit of the environment cut it: then it is over too, and has not ``ended``.
        """
        ...


def checked_opening(returned: Any, name: str) -> list[Message] | None:
    """The messages that ``reset`` returned, None for the prompt of the state."""
    messages = None if returned is None else _checked_messages(returned, f"{name}.reset")
    if messages == []:
        raise TextEnvironmentError(f"{name}.reset returned no message, expected at least one to begin with")
    return messages


def checked_answer(returned: Any, name: str) -> tuple[list[Message], float, bool, bool]:
    """Messages, reward, whether it is over, and whether it was cut, as ``step`` returned them."""
    if not isinstance(returned, tuple) or len(returned) not in (3, 4):
        raise TextEnvironmentError(
            f"{name}.step returned {returned!r:.100}, expected three things: messages, reward, whether it is over"
        )
    messages, reward, done, cut = (*returned, False)[:4]
    checked = _checked_messages(messages, f"{name}.step")
    number = checked_reward(reward, f"{name}.step")
    done, cut = _checked_flag(done, "third", name), _checked_flag(cut, "fourth", name)
    if not checked and not (done or cut):
        raise TextEnvironmentError(
            f"{name}.step returned no message, and that it is not over: the model needs something to answer"
        )
    return checked, number, done or cut, cut


def checked_reward(reward: Any, source: str) -> float:
    """A reward as a finite number."""
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise TextEnvironmentError(f"{source} returned the reward {reward!r:.60}, expected a finite number")
    return number


def _checked_flag(flag: Any, place: str, name: str) -> bool:
    try:
        if flag in (False, True):
            return bool(flag)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TextEnvironmentError(
        f"{name}.step returned {flag!r:.60} in the {place} place, expected True or False: messages, reward, whether it "
        f"is over, and maybe whether a limit cut it"
    )


def _can_be_encoded(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked_messages(messages: Any, source: str) -> list[Message]:
    expected = 'expected a list of messages {"role": "user", "content": "..."}'
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise TextEnvironmentError(f"{source} returned {messages!r:.100}, {expected}")
    for message in messages:
        is_message = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not is_message or not isinstance(message.get("content"), str):
            raise TextEnvironmentError(f"{source} returned the message {message!r:.100}, {expected}")
        if not _can_be_encoded(message["content"]):
            raise TextEnvironmentError(f"{source} returned {message!r:.100}, which has half of a character in it")
    return [dict(message) for message in messages]
