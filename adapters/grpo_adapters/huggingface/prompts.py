"""From states to the token ids of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.states import Prompt, prompt_of


def encode_prompts(
    states: Sequence[Any], tokenizer: PreTrainedTokenizerBase, longest: int | None = None
) -> list[tuple[int, ...]]:
    """Token ids of each state's prompt: a string as it is, chat messages through the tokenizer's chat template.

    Args:
        states: strings, chat messages, or rows with a column ``prompt`` of either.
        tokenizer: the policy's.
        longest: tokens that a prompt may have; None for any number.

    Raises:
        TypeError: if a state is none of these.
        ValueError: if a prompt has no token, or too many; if messages come to a tokenizer without a chat template.
    """
    prompts: list[tuple[int, ...]] = []
    previous: Prompt | None = None
    for index, state in enumerate(states):
        prompt = prompt_of(state, index)
        if prompt == previous:  # the samples of a group share their state
            prompts.append(prompts[-1])
            continue
        previous = prompt
        if isinstance(prompt, str):
            token_ids = tuple(tokenizer(prompt)["input_ids"])
        else:
            token_ids = tuple(tokenizer(rendered(prompt, tokenizer, index), add_special_tokens=False)["input_ids"])
        if not token_ids:
            raise ValueError(
                f"the prompt of state {index} has no token: a model needs one to continue from, such as its "
                f"beginning-of-text token {tokenizer.bos_token or tokenizer.eos_token!r}"
            )
        if longest is not None and len(token_ids) > longest:
            raise ValueError(
                f"the prompt of state {index} has {len(token_ids):,} tokens, expected at most {longest:,}, the model's "
                f"context less max_new_tokens: shorten it, leave it out, or lower max_new_tokens. "
                f"It begins {str(prompt)[:60]!r}"
            )
        prompts.append(token_ids)
    return prompts


def rendered(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, index: int) -> str:
    """Chat messages as the tokenizer's template has them, up to where the assistant goes on."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"state {index} is made of chat messages, but the tokenizer has no chat template: set "
            f"tokenizer.chat_template, use an instruction-tuned model, or pass the prompt as one string"
        )
    continues = messages[-1]["role"] == "assistant"  # the completion goes on where the assistant's words end
    rendered = tokenizer.apply_chat_template(
        messages, add_generation_prompt=not continues, continue_final_message=continues, tokenize=False
    )
    assert isinstance(rendered, str)
    return rendered
