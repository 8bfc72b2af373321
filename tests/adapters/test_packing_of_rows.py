"""Rows packed into one sequence: the same log-probs and gradients, or rows side by side as ever."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_models import build_policy, random_completions

from grpo_adapters.huggingface import CausalLMPolicy, Completion, Conversation, Turn

PACKING = ["gpt2", "llama", "qwen3", "gemma2", "gemma3", "gpt_neox", "mistral"]
NOT_PACKING = ["mamba", "bloom", "opt"]


def actions_of(count: int, seed: int) -> list[Completion | Conversation]:
    """Completions, and between them a conversation of two rows."""
    completions = random_completions(count, seed=seed)
    first, second = completions[0], completions[-1]
    return [*completions, Conversation((Turn((2, 3), first), Turn((4,), second)), ())]


@pytest.mark.parametrize("family", PACKING)
@settings(max_examples=8)
@given(st.integers(1, 5), st.integers(0, 99), st.integers(1, 60))
def test_packed_rows_are_those_alone(family: str, count: int, seed: int, tokens: int) -> None:
    actions = actions_of(count, seed)
    found = []
    for packing in (None, tokens):
        policy: CausalLMPolicy = build_policy(family, packing=packing)
        assert policy._layout.packing == packing
        log_probs = policy.evaluate_actions(policy.encode_actions(["1+2="] * len(actions), actions)).log_probs
        parameters = [value for value in policy.get_parameters().values() if value.requires_grad]
        gradients = torch.autograd.grad(log_probs.square().mean(), parameters)
        found.append((log_probs.detach(), *gradients))
    scale = max(1.0, *(float(gradient.abs().max()) for gradient in found[0][1:]))
    for whole, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, whole, rtol=1e-4, atol=1e-5 * scale)


def test_nothing_is_computed_for_padding() -> None:
    policy = build_policy("llama", packing=1000)
    completions = [Completion((2,) * length, "") for length in (1, 20, 3)]
    shapes: list[torch.Size] = []
    policy.causal_model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: shapes.append(inputs[0].shape)
    )
    policy.evaluate_actions(policy.encode_actions(["7"] * 3, completions))
    assert shapes == [(1, 1 + 20 + 3)]


@pytest.mark.parametrize("family", NOT_PACKING)
def test_models_that_do_not_take_packed_rows_go_on_side_by_side(family: str) -> None:
    with pytest.warns(UserWarning, match=r"packing=64 is left out: rows behind each other in one sequence do not come"):
        policy = build_policy(family, packing=64)
    assert policy._layout.packing is None


@pytest.mark.parametrize("packing", [0, -1, True, 1.5])
def test_packing_is_a_number_of_tokens(packing: int) -> None:
    with pytest.raises(ValueError, match=r"packing is .*, expected a number of tokens, at least 1, or None"):
        build_policy("gpt2", packing=packing)
