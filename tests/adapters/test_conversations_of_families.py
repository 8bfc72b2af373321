"""Conversations in the chat templates of model families: the very tokens, in the template's own words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from chat_families import (
    FAMILIES,
    GEMMA,
    GEMMA3,
    GPT_OSS,
    LLAMA3_1,
    LLAMA3_2,
    QWEN3,
    Family,
    Message,
    ids_of,
    let_speak,
    policy_of,
    read,
    rendered,
    tokenizer_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_adapters.huggingface import AgentSampler, CompletionBatch, Conversation, Tool, parse_message
from grpo_adapters.huggingface.text.conversations import rows_of

ASKED: list[Message] = [{"role": "user", "content": "2 + 3?"}]
CALL = {"name": "add", "arguments": {"first": 2, "second": 3}}
CALLED: Message = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}


def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: one.
        second: the other.
    """
    return first + second


class Asks:
    """Says the same until it has said it often enough."""

    def __init__(self, num_turns: int) -> None:
        self.left = num_turns

    def reset(self, state: Any) -> None:
        return None

    def step(self, message: Message) -> tuple[list[Message], float, bool]:
        self.left -= 1
        return [{"role": "user", "content": "And é?"}], 1.0, self.left <= 0


def talk(family: Family, turns: Sequence[str], *, tools: bool, **options: Any) -> Conversation:
    """What the policy says by a script, in a conversation with a tool and with one that goes on asking."""
    policy = policy_of(family)
    let_speak(policy, family, turns)
    asks = sum("tool_calls" not in parse_message(turn.removesuffix(family.end)) for turn in turns)
    sampler = AgentSampler(lambda: Asks(asks), [add] if tools else (), max_turns=len(turns), **options)
    groups: list[list[Conversation]] = sampler.sample(policy, [{"prompt": ASKED}], 1)
    [[conversation]] = groups
    assert len(conversation.turns) == len(turns)
    check_exactness(family, policy, conversation)
    return conversation


def check_exactness(family: Family, policy: Any, conversation: Conversation) -> None:
    """Law 13, and that decisions are exactly what the model sampled."""
    batch = policy.encode_actions(["unread"], [conversation])
    assert isinstance(batch, CompletionBatch)
    sampled = [token for turn in conversation.turns for token in turn.completion.token_ids]
    assert batch.targets.tolist() == sampled
    assert batch.sampling_log_probs is not None
    log_probs = policy.evaluate_actions(batch).log_probs
    torch.testing.assert_close(log_probs, batch.sampling_log_probs, rtol=0, atol=1e-5)


QWEN_TOOL = "\n<|im_start|>user\n<tool_response>\n5\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
QWEN_USER = "\n<|im_start|>user\nAnd é?<|im_end|>\n<|im_start|>assistant\n"
LLAMA_TOOL = (
    '<|start_header_id|>ipython<|end_header_id|>\n\n"5"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'
)
LLAMA_USER = (
    "<|start_header_id|>user<|end_header_id|>\n\nAnd é?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA_USER = "\n<start_of_turn>user\nAnd é?<end_of_turn>\n<start_of_turn>model\n"
OSS_TOOL = '<|start|>functions.add to=assistant<|channel|>commentary<|message|>"5"<|end|><|start|>assistant'
THINKING = "<|channel|>analysis<|message|>Adding.<|end|><|start|>assistant"
OSS_ARGUMENTS = '<|message|>{"first": 2, "second": 3}<|call|>'
JSON = '{"name": "add", "arguments": {"first": 2, "second": 3}}'
TIGHT = '{"name":"add","arguments":{"first":2,"second":3}}'
LLAMA_JSON = '{"name": "add", "parameters": {"first": 2, "second": 3}}'
BROKEN = '{"name": "add", "arguments": {"first": 2'
UNREAD = "error: the call '" + BROKEN + "' cannot be read; tools are add"

GOES_ON: list[tuple[Family, str, str]] = [
    (QWEN3, f"<think>\nAdd.\n</think>\n\n<tool_call>\n{JSON}\n</tool_call><|im_end|>", QWEN_TOOL),
    (QWEN3, f"<think>Add.</think><tool_call>{TIGHT}</tool_call><|im_end|>", QWEN_TOOL),
    (QWEN3, f"  Let me see. <tool_call>{TIGHT}</tool_call> \n<|im_end|>", QWEN_TOOL),
    (QWEN3, f"<tool_call>\n{BROKEN}\n</tool_call><|im_end|>", QWEN_TOOL.replace("5", UNREAD)),
    (QWEN3, "It is 5. <|im_end|>", QWEN_USER),
    (LLAMA3_1, f"{LLAMA_JSON}<|eot_id|>", LLAMA_TOOL),
    (LLAMA3_2, f"{LLAMA_JSON}<|eot_id|>", LLAMA_TOOL),
    (LLAMA3_2, f" {TIGHT.replace('arguments', 'parameters')}\n<|eot_id|>", LLAMA_TOOL),
    (LLAMA3_1, f"<|python_tag|>{LLAMA_JSON}<|eot_id|>", LLAMA_TOOL),
    (LLAMA3_1, " It is 5.\n<|eot_id|>", LLAMA_USER),
    (GEMMA, "It is 5.<end_of_turn>", GEMMA_USER),
    (GEMMA3, " \nIt is 5. <end_of_turn>", GEMMA_USER),
    (GPT_OSS, f"{THINKING} to=functions.add<|channel|>commentary json{OSS_ARGUMENTS}", OSS_TOOL),
    (GPT_OSS, f"{THINKING}<|channel|>commentary to=functions.add <|constrain|>json{OSS_ARGUMENTS}", OSS_TOOL),
    (GPT_OSS, f"<|channel|>commentary to=functions.add <|constrain|>json{OSS_ARGUMENTS}", OSS_TOOL),
    (
        GPT_OSS,
        f"{THINKING}<|channel|>commentary<|message|>I add.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.add <|constrain|>json{OSS_ARGUMENTS}",
        OSS_TOOL,
    ),
]


@pytest.mark.parametrize(("family", "said", "read_next"), GOES_ON)
def test_a_turn_goes_on_with_the_very_tokens(family: Family, said: str, read_next: str) -> None:
    tools = family.template not in ("gemma", "gemma3")
    first, second = talk(family, [said, f"Done.{family.end}"], tools=tools).turns
    assert second.context[: len(first)] == first.token_ids == (*first.context, *ids_of(family, said))
    schemas = [Tool(add).schema] if tools else []
    assert read(family, first.context) == rendered(family, ASKED, schemas)
    assert read(family, second.context[len(first) :]) == read_next


REWRITES: list[tuple[Family, str, Message, list[Message]]] = [
    (
        QWEN3,
        "<think>\nEasy.\n</think>\n\nIt is 5.<|im_end|>",
        {"role": "assistant", "content": "It is 5."},
        [{"role": "user", "content": "And é?"}],
    ),
    (
        QWEN3,
        "It is 5.<|endoftext|>",
        {"role": "assistant", "content": "It is 5."},
        [{"role": "user", "content": "And é?"}],
    ),
    (
        QWEN3,
        f"<think>\n\n</think>\n\n<tool_call>{JSON}</tool_call><|im_end|>",
        CALLED,
        [{"role": "tool", "content": "5"}],
    ),
    (LLAMA3_1, f"<|python_tag|>{LLAMA_JSON}<|eom_id|>", CALLED, [{"role": "tool", "content": "5"}]),
    (GEMMA, "It is 5.<eos>", {"role": "assistant", "content": "It is 5."}, [{"role": "user", "content": "And é?"}]),
    (
        GPT_OSS,
        f"{THINKING}<|channel|>final<|message|>It is 5.<|return|>",
        {"role": "assistant", "content": "It is 5."},
        [{"role": "user", "content": "And é?"}],
    ),
    (
        GPT_OSS,
        "<|channel|>final<|message|>It is 5.<|return|>",
        {"role": "assistant", "content": "It is 5."},
        [{"role": "user", "content": "And é?"}],
    ),
]


@pytest.mark.parametrize(("family", "said", "message", "answers"), REWRITES)
def test_a_row_begins_where_the_template_rewrites(
    family: Family, said: str, message: Message, answers: list[Message]
) -> None:
    tools = [add] if "tool_calls" in message else []
    first, second = talk(family, [said, f"Done.{family.end}"], tools=bool(tools)).turns
    assert second.context[: len(first)] != first.token_ids
    schemas = [Tool(function).schema for function in tools]
    text = rendered(family, [*ASKED, message, *answers], schemas)
    assert read(family, second.context) == text
    assert second.context == tuple(tokenizer_of(family)(text, add_special_tokens=False)["input_ids"])


def test_thinking_stays_between_calls_and_goes_with_the_next_question() -> None:
    call = f"<think>\nAdd.\n</think>\n\n<tool_call>\n{JSON}\n</tool_call><|im_end|>"
    answer = "<think>\nSeen.\n</think>\n\nIt is 5.<|im_end|>"
    conversation = talk(QWEN3, [call, call, answer, answer], tools=True)
    assert [len(row) for row in rows_of(conversation.turns)] == [3, 1]
    last = read(QWEN3, conversation.turns[-1].context)
    assert "Add." not in last
    assert "Seen." not in last
    assert last.count(f"<tool_call>\n{JSON}\n</tool_call>") == 2


def pieces(family: Family) -> st.SearchStrategy[str]:
    """What a model of the family may come to say, sense or not."""
    word = st.sampled_from(["It is 5.", " ", "\n", "\n\n", "{", '"', "é", "5"])
    special = st.sampled_from([token for token in family.special_tokens if token not in family.ends])
    calls = {
        "qwen3": [f"<tool_call>\n{JSON}\n</tool_call>", f"<tool_call>{TIGHT}</tool_call>", f"<tool_call>{BROKEN}"],
        "gptoss": [THINKING, "<|channel|>final<|message|>", " to=functions.add<|channel|>commentary json<|message|>{}"],
    }
    call = st.sampled_from(calls.get(family.template, [LLAMA_JSON, TIGHT, BROKEN]))
    thought = st.sampled_from(["<think>\nHm.\n</think>\n\n", "<think></think>", "<think>", "</think>"])
    piece = st.one_of(word, call, thought if family is QWEN3 else word, special)
    ends = st.sampled_from((*family.ends, *[family.end] * 4))
    return st.tuples(st.lists(piece, max_size=5).map("".join), ends).map("".join)


def answers_of(conversation: Conversation) -> list[list[str]]:
    """What was answered to each turn."""
    answers: list[list[str]] = []
    for message in conversation.messages:
        if message["role"] == "assistant":
            answers.append([])
        else:
            answers[-1].append(message["content"])
    return answers


def may_rewrite(family: Family, said: Sequence[str]) -> bool:
    """Whether a template may write these turns in another way, once they have been answered."""
    if family is GPT_OSS or not said[-1].endswith(family.end):
        return True
    return family is QWEN3 and any("think>" in turn for turn in said)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.template)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_whatever_is_said(family: Family, data: st.DataObject) -> None:
    """Rows end only where a template writes what was before in another way; answers are told, and nothing is lost."""
    said = data.draw(st.lists(pieces(family), min_size=2, max_size=4))
    tools = [] if family in (GEMMA, GEMMA3) else [add]
    policy = policy_of(family)
    let_speak(policy, family, said)
    sampler = AgentSampler(lambda: Asks(9), tools, max_turns=len(said))
    [[conversation]] = sampler.sample(policy, [ASKED], 1)
    check_exactness(family, policy, conversation)
    schemas = [Tool(function).schema for function in tools]
    opening = rendered(family, ASKED, schemas)
    assert read(family, conversation.turns[0].context) == opening
    answers = answers_of(conversation)
    for place, (before, turn) in enumerate(zip(conversation.turns, conversation.turns[1:], strict=False)):
        text = read(family, turn.context)
        goes_on = turn.context[: len(before)] == before.token_ids
        assert goes_on or may_rewrite(family, said[: place + 1])
        assert text.startswith(read(family, before.token_ids) if goes_on else opening[: opening.rindex("2 + 3?")])
        assert all(answer in text or json.dumps(answer, ensure_ascii=False) in text for answer in answers[place])
        assert text.endswith(opening.rpartition("2 + 3?")[2][-12:])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.template)
def test_what_the_model_itself_samples(family: Family) -> None:
    """Log-probs are those that tokens were drawn with, when the model speaks, in conversations of unequal lengths."""
    policy = policy_of(family, max_new_tokens=8, with_log_probs=True)
    head = policy.causal_model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    head.bias.data[list(ids_of(family, family.end))] = 5.0
    conversations = [
        conversation
        for group in AgentSampler(lambda: Asks(3)).sample(policy, [ASKED, [{"role": "user", "content": "é" * 40}]], 3)
        for conversation in group
    ]
    assert max(len(conversation.turns) for conversation in conversations) == 3
    batch = policy.encode_actions(["unread"] * 6, conversations)
    assert isinstance(batch, CompletionBatch)
    assert batch.sampling_log_probs is not None
    log_probs = policy.evaluate_actions(batch).log_probs
    torch.testing.assert_close(log_probs, batch.sampling_log_probs, rtol=0, atol=1e-5)


class Says:
    """Answers with given messages, once."""

    def __init__(self, opening: list[Message] | None, *answers: Message) -> None:
        self.opening, self.answers = opening, list(answers)

    def reset(self, state: Any) -> list[Message] | None:
        return self.opening

    def step(self, message: Message) -> tuple[list[Message], float, bool]:
        return self.answers, 0.0, False


SYSTEM: Message = {"role": "system", "content": "Be brief."}
PHI3 = Family("phi3", ("<|user|>", "<|assistant|>", "<|end|>", "<|system|>"), ("<|end|>",), "<|end|>", "<|end|>")
LLAMA3 = Family("llama3", LLAMA3_1.special_tokens, LLAMA3_1.ends, LLAMA3_1.end, LLAMA3_1.call_end)
NO_PLACE: list[tuple[Family, Says, bool, str]] = [
    (GEMMA, Says(None), True, "state 0 comes with tools, but the chat template of this tokenizer has no variable"),
    (LLAMA3, Says(None), True, "state 0 comes with tools, but the chat template of this tokenizer has no variable"),
    (GEMMA, Says([SYSTEM, *ASKED]), False, "refuses the messages of state 0: System role not supported"),
    (PHI3, Says([*ASKED, {"role": "nobody", "content": "x"}]), False, "leaves out message 1 of state 0, of the role"),
    (QWEN3, Says([*ASKED, {"role": "assistant", "content": "It"}]), False, "state 0 ends in words of the assistant"),
    (PHI3, Says(None, {"role": "tool", "content": "5"}), False, "refuses or leaves out answers of the roles 'tool'"),
    (GEMMA3, Says(None, *ASKED, *ASKED), False, "refuses or leaves out answers of the roles 'user', 'user'"),
]


@pytest.mark.parametrize(("family", "says", "tools", "message"), NO_PLACE)
def test_what_a_template_has_no_place_for(family: Family, says: Says, tools: bool, message: str) -> None:
    policy = policy_of(family)
    let_speak(policy, family, [f"It is 5.{family.end}"])
    with pytest.raises(ValueError, match=message):
        AgentSampler(lambda: says, [add] if tools else ()).sample(policy, [ASKED], 1)


def test_the_tokenizers_own_parser_is_used_where_it_can_read() -> None:
    tokenizer = tokenizer_of(QWEN3)
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "tool_calls": {
                "open": "[",
                "close": "]",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"close": "<|im_end|>", "content": "text"},
        },
    }
    try:
        told = talk(QWEN3, [f"[{JSON}]<|im_end|>", "Good.<|im_end|>"], tools=True)
        unread = talk(QWEN3, ["[{]<|im_end|>"], tools=True)
        strange = talk(QWEN3, ["[5]<|im_end|>"], tools=True)
    finally:
        tokenizer.response_template = None
    assert told.messages[:2] == (CALLED, {"role": "tool", "name": "add", "content": "5"})
    assert told.messages[2] == {"role": "assistant", "content": "Good."}
    assert unread.messages[0] == {"role": "assistant", "content": "[{]"}
    assert strange.messages[0] == {"role": "assistant", "content": "[5]"}


PARSED: list[tuple[str, Message]] = [
    ("<think>\nHm.\n</think>\n\nFive.", {"content": "Five.", "reasoning_content": "Hm."}),
    ("Hm.</think>Five.", {"content": "Five.", "reasoning_content": "Hm."}),
    ("<think>Never done", {"content": "", "reasoning_content": "Never done"}),
    (
        f"<think><tool_call>{JSON}</tool_call></think>No.",
        {"content": "No.", "reasoning_content": f"<tool_call>{JSON}</tool_call>"},
    ),
    (f"<think>Hm.</think><tool_call>{JSON}</tool_call>", {**CALLED, "reasoning_content": "Hm."}),
]


@pytest.mark.parametrize(("text", "message"), PARSED)
def test_thinking_is_no_answer(text: str, message: Message) -> None:
    assert parse_message(text) == {"role": "assistant", **message}
