"""From states to the token ids of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.text.chat_templates import KWARGS_COLUMN, rendered, template_options
from grpo_adapters.huggingface.text.states import Prompt, prompt_of


def encode_prompts(
    states: Sequence[Any], tokenizer: PreTrainedTokenizerBase, longest: int | None = None
) -> list[tuple[int, ...]]:
    """Token ids of each state's prompt: a string as it is, chat messages through the tokenizer's chat template.

    Args:
        states: strings, chat messages, or rows with a column ``prompt`` of either; with messages, a row may have
            columns ``tools`` and ``chat_template_kwargs``, which go to the template too.
        tokenizer: the policy's.
        longest: tokens that a prompt may have; None for any number.

    Raises:
        TypeError: if a state is none of these.
        ValueError: if a prompt has no token, or too many; if messages come to a tokenizer without a chat template, or
            with one that refuses them or does not use what the row says.
    """
    prompts: list[tuple[int, ...]] = []
    previous: tuple[Prompt, dict[str, Any]] | None = None
    for index, state in enumerate(states):
        asked = prompt_of(state, index), template_options(state, f"state {index}")
        if asked == previous:  # the samples of a group share their state
            prompts.append(prompts[-1])
            continue
        previous = asked
        token_ids = _token_ids(*asked, tokenizer, f"state {index}")
        if not token_ids:
            raise ValueError(
                f"the prompt of state {index} has no token: a model needs one to continue from, such as its "
                f"beginning-of-text token {tokenizer.bos_token or tokenizer.eos_token!r}"
            )
        if longest is not None and len(token_ids) > longest:
            raise ValueError(
                f"the prompt of state {index} has {len(token_ids):,} tokens, expected at most {longest:,}, the model's "
                f"context less max_new_tokens: shorten it, leave it out, or lower max_new_tokens. "
                f"It begins {str(asked[0])[:60]!r}"
            )
        prompts.append(token_ids)
    return prompts


def _token_ids(
    prompt: Prompt, options: dict[str, Any], tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        return tuple(tokenizer(rendered(prompt, tokenizer, name, options), add_special_tokens=False)["input_ids"])
    if options:
        column = "tools" if "tools" in options else KWARGS_COLUMN
        raise ValueError(
            f"{name} has a column {column!r}, but its prompt is a string, which no chat template writes it into: give "
            f'the prompt as messages, [{{"role": "user", "content": ...}}], or leave the column out'
        )
    return tuple(tokenizer(prompt)["input_ids"])
