"""Chat messages as the chat template of a tokenizer writes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from grpo_adapters.huggingface.text.conversations import Message
from grpo_adapters.huggingface.text.states import ends_in_own_words

KWARGS_COLUMN = "chat_template_kwargs"


def template_options(state: Any, name: str) -> dict[str, Any]:
    """What a row tells a chat template besides messages: its columns ``tools`` and ``chat_template_kwargs``.

    Args:
        state: a string, chat messages, or a row.
        name: of the state, for errors.

    Returns:
        The variables of ``chat_template_kwargs``, and ``tools`` where the row has any; what is None is left out, since
        tables fill up with it what a row has not.

    Raises:
        TypeError: if tools are no sequence of JSON schemas and functions, or the other is no mapping.

    Example:
        >>> row = {"prompt": [{"role": "user", "content": "6+7?"}], "chat_template_kwargs": {"enable_thinking": False}}
        >>> template_options(row, "state 0")
        {'enable_thinking': False}
    """
    if not isinstance(state, Mapping):
        return {}
    variables, tools = state.get(KWARGS_COLUMN), state.get("tools")
    if not isinstance(variables, Mapping | None):
        raise TypeError(
            f"column {KWARGS_COLUMN!r} of {name} is a {type(variables).__name__}, expected variables of the chat "
            f"template by name, such as {{'enable_thinking': False}}"
        )
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence | None):
        raise TypeError(
            f"column 'tools' of {name} is a {type(tools).__name__}, expected JSON schemas or functions in []"
        )
    for place, tool in enumerate(tools or ()):
        if not (isinstance(tool, dict) or inspect.isfunction(tool) or inspect.ismethod(tool)):
            raise TypeError(f"tool {place} of {name} is a {type(tool).__name__}, expected a JSON schema or a function")
    options = {key: value for key, value in (variables or {}).items() if value is not None}
    return options | {"tools": list(tools)} if tools else options


def rendered(messages: list[Message], tokenizer: PreTrainedTokenizerBase, name: str, options: Mapping[str, Any]) -> str:
    """Chat messages as the tokenizer's template has them, up to where the assistant goes on.

    That is after a generation prompt, or where the assistant's own words end, if the last message is such.

    Args:
        messages: at least one.
        tokenizer: the policy's.
        name: of the state, for errors.
        options: what :func:`template_options` gives.

    Raises:
        ValueError: if there is no template, if it does not use one of the options, or refuses or changes the messages.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{name} is made of chat messages, but the tokenizer has no chat template: set tokenizer.chat_template, "
            f"use an instruction-tuned model, or pass the prompt as one string"
        )
    if options:
        _check_options(options, tokenizer, name)
    continues = ends_in_own_words(messages)
    own = messages[-1]["content"] if continues else ""
    try:
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=not continues, continue_final_message=continues, tokenize=False, **options
        )
    except Exception as error:
        if continues and isinstance(error, ValueError):
            raise _changed(name, own) from error
        raise ValueError(f"the chat template refuses the messages of {name}: {error}") from error
    assert isinstance(text, str)
    if not text.endswith(own):
        raise _changed(name, own)
    return text


def _changed(name: str, own: str) -> ValueError:
    return ValueError(
        f"{name} ends in the assistant's own words, {own[-40:]!r}, which the chat template does not write as they are, "
        f"so that no completion can go on with them: leave out what it strips, such as blanks at the end or thinking, "
        f"set a tokenizer.chat_template that keeps it, or end the messages before them"
    )


def _check_options(options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """The template must use each of the options, and none may be an argument of the tokenizer's method instead."""
    template = tokenizer.get_chat_template(tools=options.get("tools"))
    arguments = inspect.signature(tokenizer.apply_chat_template).parameters.keys() - {"tools", "documents"}
    for option in options:
        if option in arguments or option not in _names_in(template):
            what = "comes with tools" if option == "tools" else f"has {option!r} in column {KWARGS_COLUMN!r}"
            raise ValueError(
                f"{name} {what}, but the chat template of this tokenizer has no variable {option!r}, so the model "
                f"would never see it: leave it out, or set a tokenizer.chat_template that uses it"
            )


@lru_cache(maxsize=8)
def _names_in(template: str) -> frozenset[str]:
    return frozenset(value for _, kind, value in jinja2.Environment().lex(template) if kind == "name")  # noqa: S701
