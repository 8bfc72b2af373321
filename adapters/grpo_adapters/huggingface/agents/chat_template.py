"""A tokenizer's chat template, asked what it makes of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.text.chat_templates import rendered
from grpo_adapters.huggingface.text.conversations import Message
from grpo_adapters.huggingface.text.states import ends_in_own_words


class ChatTemplateError(ValueError):
    """A chat template refuses messages, or leaves something of them out; the message says which and why."""


class ChatTemplate:
    """From messages to text, with the tools of one conversation.

    Args:
        tokenizer: with a chat template.
        schemas: of the tools.
        options: other variables of the template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, schemas: Sequence[dict[str, Any]], options: Mapping[str, Any]
    ) -> None:
        self._tokenizer = tokenizer
        self.schemas: list[Any] = list(schemas)
        self._options = dict(options)
        self._known: set[tuple[Any, ...]] = set()

    def render(self, messages: Sequence[Message], adds_generation_prompt: bool = True) -> str:
        """The messages as text, up to where the assistant speaks next, or to the end of the last one.

        Raises:
            ChatTemplateError: if the template does not take them.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=self.schemas or None,
                add_generation_prompt=adds_generation_prompt,
                tokenize=False,
                **self._options,
            )
        except Exception as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ChatTemplateError(
                f"the tokenizer's chat template does not take messages of {roles}: {error}"
            ) from error
        return str(text)

    def opening(self, messages: Sequence[Message], name: str) -> str:
        """The messages that a conversation begins with as text.

        Args:
            messages: at least one.
            name: of the state, for errors.

        Raises:
            ValueError: if there is no template, or it does not take them, or has no place for one or for the tools.
        """
        if ends_in_own_words(messages):
            raise ValueError(f"{name} ends in words of the assistant, expected another's, which the model can answer")
        options = self._options | ({"tools": self.schemas} if self.schemas else {})
        text = rendered(list(messages), self._tokenizer, name, options)
        for place, message in enumerate(messages):
            if message["role"] != "assistant" and not self.tells(messages, [place]):
                raise ChatTemplateError(
                    f"the tokenizer's chat template leaves out message {place} of {name}, of the role "
                    f"{message['role']!r}: give it another role, or set another tokenizer.chat_template"
                )
        return text

    def tells(self, messages: Sequence[Message], places: Sequence[int]) -> bool:
        """Whether the text has the contents of these messages, whatever they are."""
        around = messages[max(min(places) - 1, 0) : max(places) + 1]
        kind = tuple((message["role"], *sorted(message)) for message in around)
        if kind not in self._known:
            marked = [dict(message) for message in messages]
            for place in places:
                marked[place]["content"] = f"mark{place}mark"
            text = self.render(marked)
            if not all(f"mark{place}mark" in text for place in places):
                return False
            self._known.add(kind)
        return True
