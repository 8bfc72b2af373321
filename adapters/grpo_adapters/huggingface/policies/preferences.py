"""From rows of a preference dataset to pairs of completions, in the formats that TRL takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo import Preference
from grpo_adapters.huggingface.models.model_setup import end_tokens, longest_prompt
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy
from grpo_adapters.huggingface.text.chat_templates import rendered, template_options
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.conversations import Message
from grpo_adapters.huggingface.text.prompts import encode_prompts
from grpo_adapters.huggingface.text.states import Prompt, ends_in_own_words, prompt_of

ANSWERS = ("chosen", "rejected")
EXPECTED = (
    'expected {"prompt": string or messages, "chosen": answer, "rejected": answer}, or whole conversations as "chosen" '
    'and "rejected"'
)


def preferences_of(
    rows: Iterable[Mapping[str, Any]], policy: CausalLMPolicy, *, max_length: int | None = None
) -> list[Preference[dict[str, Any], Completion]]:
    """The pairs of a preference dataset, tokenised for a policy.

    A row is one of

    - ``{"prompt": string, "chosen": string, "rejected": string}``, answers that go on where the prompt ends;
    - ``{"prompt": messages, "chosen": answer, "rejected": answer}``, an answer being a list of one message of the
      assistant, or its text;
    - ``{"chosen": messages, "rejected": messages}``, two whole conversations that differ in their last message; a
      column ``prompt`` with a string may be there as well, and is replaced by the messages before the last.

    A state is the row without ``chosen`` and ``rejected``, with what was asked as its ``prompt``. Chat messages go
    through the tokenizer's chat template; of an answer it keeps what comes up to the first end token. Where there is
    none, the tokenizer's own is appended, if it has one.

    Args:
        rows: dictionaries, such as those of a :class:`datasets.Dataset`.
        policy: whose tokenizer, chat template, end tokens and context are to be used.
        max_length: tokens of prompt and answer together, at most those of the model's context. A longer answer is cut
            there, and has then not ended. A pair is left out if that leaves it nothing to compare. None to refuse what
            is longer than the context.

    Returns:
        As many pairs as rows, or fewer with ``max_length``.

    Raises:
        TypeError: if a row is none of these, or a value is of another kind.
        ValueError: if a row lacks a column; if a prompt or an answer is empty; if both answers are the same; if
            messages come to a tokenizer without a chat template, or its template renders the prompt otherwise where an
            answer follows; if a prompt with its answer is longer than the model's context.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from grpo_adapters.huggingface import character_tokenizer
        >>> tokenizer = character_tokenizer("0123456789+=")
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
        >>> rows = [{"prompt": "6+7=", "chosen": "13", "rejected": "67", "level": 1}]
        >>> [pair] = preferences_of(rows, CausalLMPolicy(model, tokenizer))
        >>> pair.state
        {'prompt': '6+7=', 'level': 1}
        >>> pair.chosen
        Completion(token_ids=(3, 5, 0), text='13', ended=True)
    """
    if not isinstance(policy, CausalLMPolicy):
        raise TypeError(f"policy is {_kind(policy)}, expected a CausalLMPolicy: pairs are tokenised for it")
    context = longest_prompt(policy.causal_model, 0)
    if max_length is not None and not (isinstance(max_length, int) and 1 < max_length <= (context or max_length)):
        most = f"2 to {context:,}, the model's context" if context else "at least 2"
        raise ValueError(f"max_length is {max_length!r}, expected {most}")
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise TypeError(f"rows is {_kind(rows)}, expected rows one after the other: pass one split, or put a row in []")
    compared = [_compared(row, f"row {index}") for index, row in enumerate(rows)]
    prompts = encode_prompts([state for state, _ in compared], policy.tokenizer)
    ends = end_tokens(policy.causal_model, policy.tokenizer)
    preferences = []
    for index, ((state, answers), prompt_ids) in enumerate(zip(compared, prompts, strict=True)):
        name = f"row {index}"
        both = [_answer_ids(state, answer, prompt_ids, policy.tokenizer, name) for answer in answers]
        both = [_up_to_end(token_ids, ends, policy.tokenizer) for token_ids in both]
        if both[0] == both[1]:
            raise ValueError(
                f"chosen and rejected of {name} are the same tokens, {both[0][:8]}, and differ as texts: the tokenizer "
                f"does not know what they differ in; use another, or leave the row out"
            )
        longest = max(map(len, both))
        if max_length is None and context is not None and len(prompt_ids) + longest > context:
            raise ValueError(
                f"{name} has {len(prompt_ids):,} tokens of prompt and {longest:,} of an answer, together more than the "
                f"model's context of {context:,}: leave the row out, or pass max_length={context} to have answers cut"
            )
        room = longest if max_length is None else max(max_length - len(prompt_ids), 0)
        if both[0][:room] != both[1][:room]:
            chosen, rejected = (_completion(token_ids, room, policy.tokenizer) for token_ids in both)
            preferences.append(Preference(state, chosen, rejected))
    return preferences


def _compared(row: Any, name: str) -> tuple[dict[str, Any], list[str] | list[Message]]:
    """The state of a row, and the two answers to it: texts to a text, messages of the assistant to messages."""
    if not isinstance(row, Mapping):
        raise TypeError(f"{name} is {_kind(row)}, {EXPECTED}")
    given = [_checked(row, column, name) for column in ANSWERS]
    texts = [value for value in given if isinstance(value, str)]
    conversations = [value for value in given if not isinstance(value, str)]
    prompt = _checked(row, "prompt", name) if "prompt" in row else None
    answers: list[str] | list[Message]
    if isinstance(prompt, list):
        answers = [_as_message(value, column, name) for value, column in zip(given, ANSWERS, strict=True)]
    elif not texts:
        prompt, answers = _split(conversations, name)
    elif conversations:
        raise TypeError(f"one answer of {name} is a string, the other a list of messages, expected the same of both")
    elif prompt is None:
        raise ValueError(
            f"{name} has no column 'prompt' but {sorted(map(str, row))}, and strings do not tell where an answer "
            f"begins, {EXPECTED}"
        )
    else:
        answers = texts
    if answers[0] == answers[1]:
        raise ValueError(
            f"chosen and rejected of {name} are the same: nothing can be learnt from it, leave the row out, for a "
            f"dataset by dataset.filter(lambda row: row['chosen'] != row['rejected'])"
        )
    return {column: value for column, value in row.items() if column not in ANSWERS} | {"prompt": prompt}, answers


def _checked(row: Mapping[str, Any], column: str, name: str) -> Prompt:
    """The text or the messages in a column."""
    if column not in row:
        raise ValueError(
            f"{name} has no column {column!r} but {sorted(map(str, row))}, {EXPECTED}: rename the column that it is"
        )
    value = row[column]
    if not isinstance(value, str | Sequence) or isinstance(value, bytes):
        none = ": leave the row out" if value is None else ""
        raise TypeError(f"column {column!r} of {name} is {_kind(value)}, expected a string or a list of messages{none}")
    if not value:
        raise ValueError(
            f"column {column!r} of {name} is empty, {value!r}, expected a string or a list of messages: leave the row "
            f"out"
        )
    try:
        return prompt_of(value)
    except TypeError as error:
        raise TypeError(f"column {column!r} of {name} holds no chat messages: {error}") from None


def _split(conversations: Sequence[list[Message]], name: str) -> tuple[list[Message], list[Message]]:
    """What two conversations have in common, and the last message of each."""
    for column, messages in zip(ANSWERS, conversations, strict=True):
        if len(messages) < 2:
            raise ValueError(
                f"column {column!r} of {name} has one message and column 'prompt' none, expected a whole conversation "
                f"or the messages before it: put the question into a message of the user"
            )
    (*asked, chosen), (*also_asked, rejected) = conversations
    if asked != also_asked:
        both = enumerate(zip(asked, also_asked, strict=False))
        place = next((place for place, (one, other) in both if one != other), min(len(asked), len(also_asked)))
        raise ValueError(
            f"the conversations of {name} part at message {place}, before the last one, expected answers to the same "
            f"messages: leave the row out, or end both where they part"
        )
    answers = zip((chosen, rejected), ANSWERS, strict=True)
    return asked, [_as_message([answer], column, name) for answer, column in answers]


def _as_message(value: Prompt, column: str, name: str) -> Message:
    """An answer as a message of the assistant."""
    if isinstance(value, str):
        return {"role": "assistant", "content": value}
    if len(value) > 1:
        raise ValueError(
            f"column {column!r} of {name} has {len(value)} messages, expected one, the answer to the messages in "
            f"column 'prompt': drop that column if the conversation is whole"
        )
    [message] = value
    if message["role"] != "assistant" or not message.get("content"):
        raise ValueError(
            f"column {column!r} of {name} ends in {str(message)[:80]}, expected a message of the assistant with text: "
            f"leave the row out"
        )
    return message


def _answer_ids(
    state: dict[str, Any],
    answer: str | Message,
    prompt_ids: tuple[int, ...],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> list[int]:
    """Token ids that follow those of the prompt: tokenised in one with it, unless that changes the prompt's own."""
    prompt = state["prompt"]
    if isinstance(prompt, str):
        before, whole = prompt, f"{prompt}{answer}"
    else:
        assert not isinstance(answer, str)
        options = template_options(state, name)
        before, whole = rendered(prompt, tokenizer, name, options), _conversation(prompt, answer, tokenizer, options)
        if not whole.startswith(before):
            raise ValueError(
                f"the chat template renders the prompt of {name} otherwise where an answer follows: it ends in "
                f"{before[-40:]!r} before an answer, and the conversation goes {whole[: len(before)][-40:]!r} there. "
                f"Set a tokenizer.chat_template that only appends, or pass prompt and answers as strings"
            )
    token_ids: list[int] = tokenizer(whole, add_special_tokens=isinstance(prompt, str))["input_ids"]
    if tuple(token_ids[: len(prompt_ids)]) == prompt_ids:
        return token_ids[len(prompt_ids) :]
    alone: list[int] = tokenizer(whole[len(before) :], add_special_tokens=False)["input_ids"]
    return alone


def _conversation(
    prompt: list[Message], answer: Message, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]
) -> str:
    """Prompt and answer rendered; where the prompt ends in the assistant's own words, the answer goes on with them."""
    messages = [*prompt, answer]
    if ends_in_own_words(prompt):
        messages = [*prompt[:-1], answer | {"content": f"{prompt[-1].get('content') or ''}{answer['content']}"}]
    conversation = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    assert isinstance(conversation, str)
    return conversation


def _up_to_end(token_ids: list[int], ends: set[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """An answer up to its first end token, or with one where it has none."""
    for place, token in enumerate(token_ids, start=1):
        if token in ends:
            return token_ids[:place]
    return token_ids if tokenizer.eos_token_id is None else [*token_ids, tokenizer.eos_token_id]


def _completion(token_ids: list[int], most: int, tokenizer: PreTrainedTokenizerBase) -> Completion:
    kept = token_ids[:most]
    return Completion(tuple(kept), str(tokenizer.decode(kept, skip_special_tokens=True)), len(token_ids) <= most)


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {sorted(map(str, value))[:8]}"
    return "None" if value is None else f"a {type(value).__name__}"
