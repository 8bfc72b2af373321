"""What a row says besides its messages reaches the chat template, and what a template changes is told."""

from __future__ import annotations

from typing import Any

import pytest
from language_models import CHAT_TEMPLATE, build_policy, build_tokenizer

from grpo_adapters.huggingface import character_tokenizer, preferences_of
from grpo_adapters.huggingface.text.prompts import encode_prompts

ASKED = [{"role": "user", "content": "1+2"}]
CALLS = [{"type": "function", "function": {"name": "add", "arguments": {}}}]
CALLED = [*ASKED, {"role": "assistant", "content": "ab", "tool_calls": CALLS}]
WITH_VARIABLES = "{% for tool in tools or [] %}{{ tool.function.name }}={% endfor %}{{ digits }}" + CHAT_TEMPLATE
STRIPS = CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
DROPS = CHAT_TEMPLATE.replace("message['content']", "message['content'].split('b')[-1]")
REFUSES = "{{ raise_exception('no such role') }}" + CHAT_TEMPLATE


def ab(a: int) -> int:
    """Add one.

    Args:
        a: a number.
    """
    return a + 1


SCHEMA = {"type": "function", "function": {"name": "ba", "parameters": {"type": "object", "properties": {}}}}


def texts(states: list[Any], template: str = WITH_VARIABLES) -> list[str]:
    tokenizer = character_tokenizer("0123456789+= abut", chat_template=template)
    return [str(tokenizer.decode(list(token_ids))) for token_ids in encode_prompts(states, tokenizer)]


def row(**columns: Any) -> dict[str, Any]:
    return {"prompt": ASKED, **columns}


def test_tools_and_variables_reach_the_template() -> None:
    states = [
        row(),
        row(tools=[ab, SCHEMA]),
        row(tools=[SCHEMA]),
        row(tools=[], chat_template_kwargs={"digits": "77"}),
        row(tools=None, chat_template_kwargs={"digits": "78"}),
        row(chat_template_kwargs={"digits": None}),
        row(tools=[ab], chat_template_kwargs={"digits": "9"}),
    ]
    written = ["", "ab=ba=", "ba=", "77", "78", "", "ab=9"]
    assert texts(states) == [f"{before}u1+2=a" for before in written]


def test_a_call_of_tools_is_no_beginning_of_an_answer() -> None:
    assert texts([CALLED, [*CALLED, {"role": "tool", "content": "3"}]], CHAT_TEMPLATE) == [
        "u1+2=aab=a",
        "u1+2=aab=t3=a",
    ]


def test_the_assistants_own_words_go_on() -> None:
    assert texts([[*ASKED, {"role": "assistant", "content": "3+", "tool_calls": None}]], CHAT_TEMPLATE) == ["u1+2=a3+"]


OWN = [*ASKED, {"role": "assistant", "content": "ab0 "}]
WRONG: list[tuple[Any, str, type[Exception], str]] = [
    (OWN, STRIPS, ValueError, r"state 1 ends in the assistant's own words, 'ab0 ', which the chat template does not"),
    (OWN, DROPS, ValueError, r"state 1 ends in the assistant's own words, 'ab0 ', which the chat template does not"),
    (ASKED, REFUSES, ValueError, r"the chat template refuses the messages of state 1: no such role"),
    (row(tools=[ab]), CHAT_TEMPLATE, ValueError, r"state 1 comes with tools, but .* has no variable 'tools'"),
    (row(chat_template_kwargs={"digit": 1}), WITH_VARIABLES, ValueError, r"state 1 has 'digit' in column 'chat_temp"),
    (row(chat_template_kwargs={"tokenize": 1}), WITH_VARIABLES, ValueError, r"has no variable 'tokenize'"),
    (row(chat_template_kwargs="digits"), WITH_VARIABLES, TypeError, r"'chat_template_kwargs' of state 1 is a str"),
    (row(tools="ab"), WITH_VARIABLES, TypeError, r"column 'tools' of state 1 is a str, expected JSON schemas or func"),
    (row(tools=SCHEMA), WITH_VARIABLES, TypeError, r"column 'tools' of state 1 is a dict"),
    (row(tools=["ab"]), WITH_VARIABLES, TypeError, r"tool 0 of state 1 is a str, expected a JSON schema or a function"),
    (
        {"prompt": "1", "tools": [ab]},
        WITH_VARIABLES,
        ValueError,
        r"state 1 has a column 'tools', but its prompt is a s",
    ),
    (
        {"prompt": "1", "chat_template_kwargs": {"digits": "7"}},
        WITH_VARIABLES,
        ValueError,
        r"state 1 has a column 'chat_template_kwargs', but its prompt is a string",
    ),
]


@pytest.mark.parametrize(("state", "template", "error", "message"), WRONG)
def test_what_cannot_reach_the_model(state: Any, template: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        texts(["7", state], template)


def test_preferences_are_of_the_prompt_with_its_tools() -> None:
    policy = build_policy(tokenizer=build_tokenizer(chat_template=WITH_VARIABLES))
    answers = {name: [{"role": "assistant", "content": own}] for name, own in (("chosen", "3"), ("rejected", "7"))}
    [pair] = preferences_of([row(tools=[ab], **answers)], policy)
    batch = policy.encode_actions([pair.state], [pair.chosen])
    [expected] = encode_prompts([pair.state], policy.tokenizer)
    assert tuple(batch.tokens[0].tolist()) == expected + pair.chosen.token_ids
    assert policy.tokenizer.decode(list(expected)).startswith("ab=")
