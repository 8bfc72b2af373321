"""A prompt is computed once for all rows after it, where that is exact and worth it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from language_models import FAMILIES, HEEDLESS, build_model, build_policy, random_completions
from torch import Tensor

from grpo import Evaluation
from grpo_adapters.huggingface import Completion
from grpo_adapters.huggingface.policies.length_buckets import cost_of_calls
from grpo_adapters.huggingface.policies.shared_prompts import RowsAfterPrompts, SharedPrompts
from grpo_adapters.huggingface.text.conversations import Conversation, Turn

LAYOUT_MODULE = "grpo_adapters.huggingface.policies.row_layout"
KEEPS_MORE = ("lfm2", "mamba")
SHARING = [family for family in FAMILIES if family not in KEEPS_MORE]
LONG = "a b a b 12+34 = 5+6"  # longer than the windows of those that have any
PROMPTS = [LONG, "1+2=", LONG, "7", LONG, "1+2="]


def policy_of(family: str, overhead: float = 0.0, **options: Any) -> Any:
    """A policy for which attention costs nothing, and calls so much."""
    with (
        patch(f"{LAYOUT_MODULE}.call_overhead", return_value=overhead),
        patch(f"{LAYOUT_MODULE}.attention_cost", return_value=0.0),
    ):
        return build_policy(family, **options)


def evaluated(policy: Any, batch: Any) -> tuple[Evaluation, dict[str, Tensor], int]:
    """What a policy makes of a batch, the gradient of all of it, and how many tokens went through the model."""
    counts: list[int] = []
    hook = policy.causal_model.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: counts.append(inputs[0].numel())
    )
    evaluation = policy.evaluate_actions(batch)
    hook.remove()
    policy.model.zero_grad()
    torch.stack((evaluation.log_probs, evaluation.entropy)).sin().sum().backward()
    gradients = {name: own.grad.clone() for name, own in policy.model.named_parameters() if own.grad is not None}
    return evaluation, gradients, sum(counts)


def assert_equal_with_fewer_tokens(policy: Any, batch: Any, tolerance: float = 1e-5) -> None:
    """Sharing changes nothing but what it costs."""
    assert policy._layout.shares_prompts
    shared, gradients, num_shared = evaluated(policy, batch)
    policy._layout.shares_prompts = False
    whole, expected, num_whole = evaluated(policy, batch)
    prompts = SharedPrompts.of(batch)
    assert num_whole - num_shared == int(prompts.lengths.sum()) - prompts.tokens.numel()
    torch.testing.assert_close(shared.log_probs, whole.log_probs, rtol=0, atol=tolerance)
    torch.testing.assert_close(shared.entropy, whole.entropy, rtol=0, atol=tolerance)
    assert gradients.keys() == expected.keys()
    scale = max(float(own.abs().max()) for own in expected.values())
    for name, own in expected.items():
        torch.testing.assert_close(gradients[name], own, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("family", SHARING)
def test_log_probs_and_gradients_are_those_of_whole_rows(family: str) -> None:
    policy = policy_of(family)
    completions = random_completions(len(PROMPTS), seed=1)
    assert_equal_with_fewer_tokens(policy, policy.encode_actions(PROMPTS, completions))


@pytest.mark.parametrize(("family", "tolerance"), [("gpt2", 1e-12), ("llama", 1e-5), ("gemma3", 1e-5)])
def test_in_double_precision(family: str, tolerance: float) -> None:
    """Llama and Gemma norm in float32."""
    policy = policy_of(family, model=build_model(family, dtype=torch.float64))
    batch = policy.encode_actions(PROMPTS, random_completions(len(PROMPTS), seed=1))
    assert_equal_with_fewer_tokens(policy, batch, tolerance)


def test_with_all_logits() -> None:
    policy = policy_of("llama")
    policy.fuses_head = False
    assert_equal_with_fewer_tokens(policy, policy.encode_actions(PROMPTS, random_completions(len(PROMPTS), seed=1)))


def test_completions_of_one_token_follow_from_prompts_alone() -> None:
    policy = policy_of("qwen3")
    completions = [Completion((token,), "") for token in range(1, 7)]
    assert_equal_with_fewer_tokens(policy, policy.encode_actions(PROMPTS, completions))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mistral"])
def test_conversations_share_what_they_begin_with(family: str) -> None:
    """Rows of several turns, and a conversation of two rows."""
    policy = policy_of(family)
    prompt = tuple(range(2, 14))
    answers = [Completion((3, 4, 5), ""), Completion((6, 0), "")]
    conversations = [
        Conversation((Turn(prompt, answers[0]), Turn((*prompt, 3, 4, 5, 9, 9), answers[1])), ()),
        Conversation((Turn(prompt, answers[1]), Turn((*prompt, 8, 8), answers[0])), ()),
        Conversation((Turn(prompt, answers[0]),), ()),
    ]
    batch = policy.encode_actions([""] * 3, conversations)
    assert (len(batch.rows), len(SharedPrompts.of(batch).tokens)) == (4, 2)
    assert_equal_with_fewer_tokens(policy, batch)


@pytest.mark.filterwarnings("ignore:the logits of RecurrentGemmaForCausalLM are not a linear layer")
@pytest.mark.filterwarnings("ignore:RecurrentGemmaForCausalLM keeps what it made of earlier tokens")
@pytest.mark.filterwarnings("ignore:.* cache:UserWarning")  # of some of them
@pytest.mark.parametrize("family", [*KEEPS_MORE, *HEEDLESS])
def test_models_that_keep_more_of_a_prompt_do_not_share_it(family: str) -> None:
    assert not policy_of(family)._layout.shares_prompts


def test_models_that_cut_gradients_do_not_share_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs alone would not tell."""
    cache_of = RowsAfterPrompts._cache_of

    def detached(self: Any, prompts: Tensor) -> Any:
        cache = cache_of(self, prompts)
        layers: list[Any] = cache.layers
        for layer in layers:
            layer.keys = layer.keys.detach()
        return cache

    assert policy_of("llama")._layout.shares_prompts
    monkeypatch.setattr(RowsAfterPrompts, "_cache_of", detached)
    assert not policy_of("llama")._layout.shares_prompts


def test_layers_that_are_computed_again_leave_nothing_to_share() -> None:
    policy = policy_of("llama", gradient_checkpointing=True)
    assert policy._layout.shares_prompts
    policy.train()
    batch = policy.encode_actions(PROMPTS, random_completions(len(PROMPTS), seed=1))
    _, gradients, num_tokens = evaluated(policy, batch)
    assert num_tokens == int((batch.lengths - 1).sum())
    _, expected, _ = evaluated(policy_of("llama"), batch)
    for name, own in expected.items():
        torch.testing.assert_close(gradients[name], own, rtol=1e-4, atol=1e-5)


def test_prompts_are_shared_where_it_saves() -> None:
    """Prompts of their own, or a call that costs more than the tokens that it saves, and rows stay whole."""
    completions = random_completions(6, seed=1)
    own = policy_of("gpt2")
    batch = own.encode_actions(["1", "12", "123", "2", "23", "234"], completions)
    assert evaluated(own, batch)[2] == int((batch.lengths - 1).sum())
    dear = policy_of("gpt2", overhead=1000.0)
    batch = dear.encode_actions(PROMPTS, completions)
    assert evaluated(dear, batch)[2] == 6 * (int(batch.lengths.max()) - 1)


def test_long_completions_after_short_prompts_attend_as_whole_rows() -> None:
    """A row after its prompt attends to all tokens, masked ones too, where a whole one skips those behind it."""
    rows, lengths = [torch.arange(8)], torch.full((8,), 4000)
    prompts = SharedPrompts(
        torch.ones(1, 20, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), rows[0] * 0, lengths * 0 + 20
    )
    cheap, dear = {"overhead": 5.0, "per_attended": 0.0}, {"overhead": 5.0, "per_attended": 1e-3}
    assert prompts.cost(lengths, rows, **cheap) == 20 + 5 + 8 * 3980 + 5
    assert prompts.cost(lengths, rows, **cheap) < cost_of_calls(rows, lengths, lengths / 2, **cheap)
    assert prompts.cost(lengths, rows, **dear) > cost_of_calls(rows, lengths, lengths / 2, **dear)
