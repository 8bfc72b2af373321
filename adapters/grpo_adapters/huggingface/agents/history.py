"""What a model has read or said so far: its messages, its very tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.completions import Completion
from grpo_adapters.huggingface.conversations import Message

Render = Callable[[Sequence[Message], bool], str]


class History:
    """The context of a model's next turn.

    Tokens that were read or sampled are never tokenised again: a turn goes on with the very ids before it, to which
    those of new messages are added. Where the chat template writes what was before in another way than it was read or
    said, since it drops thinking for instance, the context is what the template makes of all messages.

    Args:
        prompt: a string, to which everything is added as it stands, or chat messages.
        tokenizer: with a chat template, where the prompt is messages.
        end_tokens: those that end a completion.
        render: from messages, and whether the assistant is to speak next, to the text that the chat template gives.

    Attributes:
        messages: those of the prompt and all since.
        context: token ids that the model reads before its next turn.
    """

    def __init__(
        self,
        prompt: str | Sequence[Message],
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: Collection[int],
        render: Render,
    ) -> None:
        self.messages: list[Message] = [] if isinstance(prompt, str) else list(prompt)
        self._is_plain = isinstance(prompt, str)
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._render = render
        if isinstance(prompt, str):
            self.context = tuple(tokenizer(prompt)["input_ids"])
        else:
            self._text = render(self.messages, True)
            self.context = self._ids(self._text)

    def text_of(self, completion: Completion) -> str:
        """What was said, with special tokens, less the one that ended it."""
        token_ids = completion.token_ids
        return self._decoded(token_ids[:-1] if token_ids[-1] in self._end_tokens else token_ids)

    def go_on(self, completion: Completion, said: Message, answers: Sequence[Message]) -> None:
        """Add what the model said and what was answered.

        Args:
            completion: the tokens that the model sampled after ``context``.
            said: the same as a message.
            answers: at least one message.
        """
        if self._is_plain:
            self.context = (*self._ids_after(completion), *self._ids("".join(own["content"] for own in answers)))
            self.messages += [said, *answers]
            return
        before = self._text
        sampled = self._decoded(completion.token_ids)
        verbatim = {"role": "assistant", "content": self.text_of(completion)}
        for message in (verbatim, said):
            after = self._rendered([*self.messages, message, *answers])
            if after is not None and after.startswith(before + sampled):
                self._continue(completion, after[len(before + sampled) :], [message, *answers])
                self._text = after
                return
        closed = self._render([*self.messages, said], False)
        after = self._text = self._render([*self.messages, said, *answers], True)
        if closed.startswith(before) and after.startswith(closed) and self._has_ended(completion):
            ending = self._decoded(completion.token_ids[-1:])
            _, found, remainder = closed[len(before) :].rpartition(ending)
            if found:
                self._continue(completion, remainder + after[len(closed) :], [said, *answers])
                return
        self.messages += [said, *answers]
        self.context = self._ids(after)

    def _continue(self, completion: Completion, text: str, messages: Sequence[Message]) -> None:
        self.context = (*self._ids_after(completion), *self._ids(text))
        self.messages += messages

    def _ids_after(self, completion: Completion) -> tuple[int, ...]:
        return (*self.context, *completion.token_ids)

    def _has_ended(self, completion: Completion) -> bool:
        return completion.token_ids[-1] in self._end_tokens

    def _rendered(self, messages: Sequence[Message]) -> str | None:
        """The messages as the template has them, where it takes them."""
        try:
            return self._render(messages, True)
        except (jinja2.TemplateError, ValueError, TypeError, KeyError):
            return None

    def _decoded(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
