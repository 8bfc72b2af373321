"""Where a conversation goes on with the very tokens before it, the package renderers gives the same ones."""

from __future__ import annotations

from typing import Any

import pytest
from chat_families import LLAMA3_2, QWEN3, Family, call, let_speak, policy_of, tokenizer_of
from renderers.llama_3 import Llama3Renderer
from renderers.qwen3 import Qwen3Renderer

from grpo_adapters.huggingface import AgentSampler

LLAMA_CALL = '{"name": "add", "parameters": {"first": 2, "second": 3}}'


def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: one.
        second: the other.
    """
    return first + second


class Asks:
    """Asks once more."""

    def reset(self, state: Any) -> None: ...

    def step(self, message: Any) -> Any:
        return [{"role": "user", "content": "And é?"}], 0.0, False


SAID = [
    (QWEN3, f"<think>\nAdd.\n</think>\n\n{call('add', first=2, second=3)}", "tool"),
    (QWEN3, f" Let me see.{call('add', first=2, second=3)} \n", "tool"),
    (QWEN3, "It is 5. ", "user"),
    (LLAMA3_2, LLAMA_CALL, "tool"),
    (LLAMA3_2, f"\n{LLAMA_CALL} ", "tool"),
    (LLAMA3_2, " It is 5.", "user"),
]


@pytest.mark.parametrize(("family", "said", "answering"), SAID)
def test_the_same_tokens(family: Family, said: str, answering: str) -> None:
    policy = policy_of(family)
    let_speak(policy, family, [f"{said}{family.end}", f"Done.{family.end}"])
    asked = [{"role": "user", "content": "2 + 3?"}]
    [[conversation]] = AgentSampler(Asks, [add], max_turns=2).sample(policy, [asked], 1)
    first, second = conversation.turns
    renderer: Any = {"qwen3": Qwen3Renderer, "llama3_2": Llama3Renderer}[family.template](tokenizer_of(family))
    answer = conversation.messages[1]
    assert answer["role"] == answering
    bridged = renderer.bridge_to_next_turn(list(first.context), list(first.completion.token_ids), [answer])
    if bridged is None:  # renderers makes all anew at a question to a model that thinks, whether or not it did
        bridged = renderer.render([*asked, {"role": "assistant", "content": said}, answer], add_generation_prompt=True)
    assert (
        list(second.context)[len(first.context) :] == bridged.token_ids[-(len(second.context) - len(first.context)) :]
    )
