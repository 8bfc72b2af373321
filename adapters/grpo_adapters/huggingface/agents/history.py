"""What a model has read or said so far: its messages, its very tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.agents.chat_template import ChatTemplate, ChatTemplateError
from grpo_adapters.huggingface.agents.forms import simpler_forms, with_thinking_inside
from grpo_adapters.huggingface.agents.messages import checked_message, message_of
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Message


class History:
    """The context of a model's next turn.

    Tokens that were read or sampled are never tokenised again: a turn goes on with the very ids before it, to which
    those of new messages are added. Where the chat template writes what was before in another way than it was read or
    said, since it drops thinking for instance, the context is what the template makes of all messages.

    Args:
        prompt: a string, to which everything is added as it stands, or chat messages.
        tokenizer: with a chat template, where the prompt is messages.
        end_tokens: those that end a completion.
        template: of the tokenizer, with the tools of the conversation.
        name: of the state that the prompt is of, for errors.
        parse: from the text of a turn, less the token that ended it, to a message; None for the tokenizer's own parser.

    Attributes:
        messages: those of the prompt and all since.
        context: token ids that the model reads before its next turn.

    Raises:
        ValueError: if the template has no place for a message or for the tools.
    """

    def __init__(
        self,
        prompt: str | Sequence[Message],
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: Collection[int],
        template: ChatTemplate,
        name: str,
        parse: Callable[[str], Message] | None = None,
    ) -> None:
        self.messages: list[Message] = [] if isinstance(prompt, str) else list(prompt)
        self._is_plain = isinstance(prompt, str)
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._template = template
        self._parse = parse
        self._text = "" if isinstance(prompt, str) else template.opening(self.messages, name)
        self.context = tuple(tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else self._ids(self._text)

    def message_of(self, completion: Completion) -> Message:
        """What the model said, as a message."""
        if self._parse is not None:
            return checked_message(self._parse(self._said(completion)))
        whole = self._decoded(completion.token_ids)
        return message_of(self._tokenizer, self._said(completion), whole, self._text, self._template.schemas)

    def go_on(self, completion: Completion, said: Message, answers: Sequence[Message]) -> None:
        """Add what the model said and what was answered.

        Args:
            completion: the tokens that the model sampled after ``context``.
            said: the same as a message.
            answers: at least one message.

        Raises:
            ChatTemplateError: if the template has no place for the answers.
        """
        if self._is_plain:
            self._continue(completion, "".join(own["content"] for own in answers), [said, *answers])
            return
        text = self._said(completion)
        verbatim = {"role": "assistant", "content": text}
        plain = {"role": "assistant", "content": self._decoded(completion.token_ids, skip_special_tokens=True)}
        forms = [*simpler_forms(with_thinking_inside(said, text)), verbatim, plain]
        sampled = self._text + self._decoded(completion.token_ids)
        for form in (verbatim, *forms):
            after = self._after(form, answers)
            if after is not None and after.startswith(sampled):
                self._continue(completion, after[len(sampled) :], [form, *answers])
                self._text = after
                return
        for form in forms:
            remainder = self._after_the_end(completion, form, answers)
            if remainder is not None:
                self._continue(completion, remainder, [form, *answers])
                self._text = self._template.render(self.messages)
                return
        taken = [form for form in forms if self._after(form, answers) is not None]
        if not taken:
            roles = ", ".join(repr(answer["role"]) for answer in answers)
            raise ChatTemplateError(
                f"the tokenizer's chat template refuses or leaves out answers of the roles {roles} after the "
                f"assistant's {text!r:.200}: give them another role, or set another tokenizer.chat_template"
            )
        self.messages += [taken[0], *answers]
        self._text = self._template.render(self.messages)
        self.context = self._ids(self._text)

    def _after(self, form: Message, answers: Sequence[Message]) -> str | None:
        """All messages as the template has them; None where it refuses them, or leaves out an answer."""
        messages = [*self.messages, form, *answers]
        places = range(len(self.messages) + 1, len(messages))
        try:
            return self._template.render(messages) if self._template.tells(messages, places) else None
        except ChatTemplateError:
            return None

    def _after_the_end(self, completion: Completion, form: Message, answers: Sequence[Message]) -> str | None:
        """What the template writes behind the token that ended a turn; None where it rewrites what was before."""
        after = self._after(form, answers)
        if after is None or completion.token_ids[-1] not in self._end_tokens:
            return None
        closed = self._template.render([*self.messages, form], False)
        if not closed.startswith(self._text) or not after.startswith(closed):
            return None
        _, found, remainder = closed[len(self._text) :].rpartition(self._decoded(completion.token_ids[-1:]))
        return remainder + after[len(closed) :] if found else None

    def _continue(self, completion: Completion, text: str, messages: Sequence[Message]) -> None:
        self.context = (*self.context, *completion.token_ids, *self._ids(text))
        self.messages += messages

    def _said(self, completion: Completion) -> str:
        """The text of a turn, with special tokens, less the one that ended it."""
        token_ids = completion.token_ids
        return self._decoded(token_ids[:-1] if token_ids[-1] in self._end_tokens else token_ids)

    def _decoded(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return str(
            self._tokenizer.decode(
                list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
