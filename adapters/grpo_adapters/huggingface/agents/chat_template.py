"""A tokenizer's chat template, asked what it makes of messages and tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.conversations import Message


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
        self.schemas = list(schemas)
        self._options = dict(options)
        self._known: set[tuple[Any, ...]] = set()

    def render(self, messages: Sequence[Message], adds_generation_prompt: bool = True) -> str:
        """The messages as text, up to where the assistant speaks next, or to the end of the last one.

        Raises:
            ChatTemplateError: if the template does not take them.
        """
        return self._render(messages, adds_generation_prompt, self.schemas)

    def opening(self, messages: Sequence[Message]) -> str:
        """The messages that a conversation begins with as text.

        Raises:
            ChatTemplateError: if there is no template, or it does not take them, or has no place for one or for tools.
        """
        if self._tokenizer.chat_template is None:
            raise ChatTemplateError(
                "the prompt is made of chat messages, but the tokenizer has no chat template: set "
                "tokenizer.chat_template, use an instruction-tuned model, or pass the prompt as one string"
            )
        if messages[-1]["role"] == "assistant":
            raise ChatTemplateError(
                "the prompt ends in words of the assistant, expected another's, which the model's turn can answer"
            )
        text = self.render(messages)
        if self.schemas and text == self._render(messages, True, []):
            raise ChatTemplateError(
                "the tokenizer's chat template has no place for tools, it reads the same with and without them: set "
                "another tokenizer.chat_template, or tell of them in the prompt and let the environment answer calls"
            )
        for place, message in enumerate(messages):
            if message["role"] != "assistant" and not self.tells(messages, [place]):
                raise ChatTemplateError(
                    f"the tokenizer's chat template leaves out message {place}, of the role {message['role']!r}: give "
                    f"it another role, or set another tokenizer.chat_template"
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

    def _render(
        self, messages: Sequence[Message], adds_generation_prompt: bool, schemas: Sequence[dict[str, Any]]
    ) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(schemas) or None,
                add_generation_prompt=adds_generation_prompt,
                tokenize=False,
                **self._options,
            )
        except (jinja2.TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise ChatTemplateError(
                f"the tokenizer's chat template does not take messages of {roles}: {error}"
            ) from error
        return str(text)
