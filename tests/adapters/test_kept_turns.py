"""Keys and values that are kept from turn to turn: the same turns, with less to compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import VOCABULARY_SIZE, build_policy

from grpo_adapters.huggingface import CausalLMPolicy, Completion, Conversation, SamplingConfig, Turn

KEEPING = ["gpt2", "llama", "qwen3", "opt"]
COMPUTING_ANEW = ["gemma2", "mamba"]
SAMPLING = SamplingConfig(max_new_tokens=5, with_log_probs=True)

Script = list[list[tuple[str, tuple[int, ...]]]]
"""For each round and each conversation: whether it goes on, begins anew or stops, and the tokens it is told."""


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    told = st.lists(st.integers(1, VOCABULARY_SIZE - 1), min_size=1, max_size=6).map(tuple)
    kind = st.sampled_from(["goes on", "goes on", "goes on", "anew", "stops"])
    count = draw(st.integers(1, 4))
    return draw(st.lists(st.lists(st.tuples(kind, told), min_size=count, max_size=count), min_size=1, max_size=4))


def talk(policy: CausalLMPolicy, script: Script) -> list[Conversation]:
    """Conversations that follow a script, with the policy's own turns."""
    turns = policy.turns(SAMPLING)
    contexts = {index: (3, *told) for index, (_, told) in enumerate(script[0])}
    said: dict[int, list[Turn]] = {index: [] for index in contexts}
    for answers in script:
        completions = turns.complete(list(contexts), list(contexts.values()))
        for (index, context), completion in zip(list(contexts.items()), completions, strict=True):
            said[index].append(Turn(context, completion))
            kind, told = answers[index]
            contexts[index] = (*(said[index][-1].token_ids if kind == "goes on" else ()), *told)
            if kind == "stops":
                del contexts[index]
        if not contexts:
            break
    return [Conversation(tuple(own), ()) for own in said.values()]


@pytest.mark.parametrize("family", [*KEEPING, *COMPUTING_ANEW])
@settings(max_examples=12)
@given(script=scripts())
def test_turns_are_drawn_from_the_policy(family: str, script: Script) -> None:
    """Law 13: the log-probs that tokens were drawn with are those of their whole contexts."""
    policy = build_policy(family)
    conversations = talk(policy, script)
    batch = policy.encode_actions([""] * len(conversations), conversations)
    with torch.no_grad():
        log_probs = policy.evaluate_actions(batch).log_probs
    torch.testing.assert_close(batch.sampling_log_probs, log_probs, rtol=1e-5, atol=1e-5)


def tokens_computed(policy: CausalLMPolicy, script: Script) -> int:
    """Tokens that go through the model's embedding in the course of a conversation, with padding."""
    counts: list[int] = []

    def count(module: Any, inputs: Any, output: Any) -> None:
        counts.append(inputs[0].numel())

    handle = policy.causal_model.get_input_embeddings().register_forward_hook(count)
    talk(policy, script)
    handle.remove()
    return sum(counts)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_nothing_is_computed_twice(family: str) -> None:
    """With a turn of 5 tokens in three rounds: the first prompt, then 4 new tokens a turn, and what is not yet read."""
    policy = build_policy(family)
    policy.causal_model.generation_config.eos_token_id = None
    policy.tokenizer.eos_token = None
    script: Script = [[("goes on", (4, 5))]] * 3
    kept, anew = (3 + 4) + 2 * ((1 + 2) + 4), (3 + 4) + (10 + 4) + (17 + 4)
    assert tokens_computed(policy, script) == (kept if family == "llama" else anew)


def test_conversations_of_a_group_are_read_once() -> None:
    policy = build_policy("llama")
    read: list[int] = []
    embedding = policy.causal_model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))
    turns: list[Completion] = policy.turns(SAMPLING).complete([0, 1, 2], [(3, 4), (3, 4), (5, 6)])
    handle.remove()
    assert read[0] == 2 * 2
    assert len(turns) == 3
