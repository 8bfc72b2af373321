"""Completions tell what their tokens were drawn with, and the loss can be corrected by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from language_models import PROMPTS, ShareOf, build_policy, build_tokenizer, plain_evaluation, sampled
from torch import Tensor

from grpo import GRPOConfig, GRPOTrainer, ImportanceCorrection, importance_weights
from grpo_adapters.huggingface import Completion, SamplingConfig

TEMPERATURE = 0.7
FILTERS: list[dict[str, Any]] = [{"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 6, "top_p": 0.8, "min_p": 0.2}]


def telling(family: str, **settings: Any) -> Any:
    """A policy whose completions tell the log-probs that they were drawn with."""
    sampling = SamplingConfig(max_new_tokens=8, temperature=TEMPERATURE, with_log_probs=True, **settings)
    return build_policy(family, sampling=sampling)


def kept_probabilities(probabilities: Tensor, top_k: int = 100, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """Probabilities [V] of what the filters leave, in the order in which they apply, by going through the tokens."""
    likeliest = probabilities.argsort(descending=True).tolist()[:top_k]
    probabilities = probabilities / probabilities[likeliest].sum()
    kept: list[int] = []
    for token in likeliest:
        if float(probabilities[kept].sum()) < top_p:
            kept.append(token)
    kept = [token for token in kept if probabilities[token] >= min_p * probabilities[likeliest[0]]]
    filtered = torch.zeros_like(probabilities)
    filtered[kept] = probabilities[kept] / probabilities[kept].sum()
    return filtered


def probabilities_at(model: Any, prompt: str, completion: Completion) -> Tensor:
    """The policy's probabilities of all tokens at each of the completion's, [T, V], from the sample alone."""
    token_ids = [*build_tokenizer()(prompt)["input_ids"], *completion.token_ids]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    probabilities: Tensor = (logits[-len(completion) - 1 : -1] / TEMPERATURE).double().softmax(-1)
    return probabilities


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gemma3", "mistral", "opt", "bloom", "lfm2", "mamba"])
def test_without_filters_they_are_the_policys(family: str) -> None:
    """Law 13, also where rows left the batch in between."""
    policy = telling(family)
    states, completions = sampled(policy, count=6)
    assert len({len(completion) for completion in completions}) > 1
    batch = policy.encode_actions(states, completions)
    torch.testing.assert_close(batch.sampling_log_probs, policy.evaluate_actions(batch).log_probs, rtol=0, atol=1e-5)
    expected, _ = plain_evaluation(policy.causal_model, states, completions, TEMPERATURE)
    torch.testing.assert_close(batch.sampling_log_probs, expected.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_with_filters_they_are_those_of_what_was_left(family: str, filters: dict[str, Any]) -> None:
    policy = telling(family, **filters)
    states, completions = sampled(policy, count=4)
    for prompt, completion in zip(states, completions, strict=True):
        rows = probabilities_at(policy.causal_model, prompt, completion)
        expected = [
            kept_probabilities(row, **filters)[token].log()
            for row, token in zip(rows, completion.token_ids, strict=True)
        ]
        torch.testing.assert_close(
            torch.tensor(completion.log_probs).double(), torch.stack(expected), rtol=0, atol=1e-5
        )


def test_a_few_overrides_tell_them_too() -> None:
    policy = build_policy("gpt2")
    [[silent]] = policy.generate_actions(PROMPTS[:1], 1)
    [[telling_own]] = policy.generate_actions(PROMPTS[:1], 1, with_log_probs=True, top_k=1)
    [likeliest] = policy.complete(PROMPTS[:1], with_log_probs=True)
    assert silent.log_probs is None
    assert telling_own.log_probs == likeliest.log_probs == (0.0,) * len(likeliest)


def build_trainer(policy: Any) -> GRPOTrainer[Any, Any]:
    """One plain gradient step of size 1, corrected for the filters."""
    config = GRPOConfig(
        group_size=6,
        loss_averaging="per_decision",
        max_grad_norm=None,
        importance_correction=ImportanceCorrection(kind="truncate", max_ratio=1.0),
    )
    optimizer = torch.optim.SGD(policy.get_parameters().values(), lr=1.0)
    return GRPOTrainer(config, policy, ShareOf("1"), optimizer=optimizer)


@pytest.mark.filterwarnings("ignore:the log-probs that PolicySampler drew actions with:UserWarning")  # by the filters
@pytest.mark.parametrize("filters", FILTERS)
def test_the_loss_is_corrected_by_what_the_filters_left(filters: dict[str, Any]) -> None:
    """The weight of a token is the policy's probability of all that the filters left, which is at most 1."""
    policy = telling("gpt2", **filters)
    trainer = build_trainer(policy)
    experience = trainer.collector.collect(PROMPTS)
    assert experience.sampling_log_probs is not None
    assert experience.old_log_probs is not None
    correction = ImportanceCorrection(kind="truncate", max_ratio=1.0)
    weights = importance_weights(
        experience.old_log_probs, experience.sampling_log_probs, experience.samples, correction
    )
    left = [
        row[kept_probabilities(row, **filters) > 0].sum()
        for state, action in zip(experience.states, experience.actions, strict=True)
        for row in probabilities_at(policy.causal_model, state, action)
    ]
    expected = torch.stack(left).float()
    assert expected.min() < 0.9
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)

    rewards = experience.sample_rewards.values.view(len(PROMPTS), -1)
    spread = rewards.std(1, keepdim=True)
    advantages = torch.where(spread > 0, (rewards - rewards.mean(1, keepdim=True)) / spread, 0.0).flatten()
    assert advantages.abs().max() > 0.5
    log_probs, _ = plain_evaluation(policy.causal_model, list(experience.states), list(experience.actions), TEMPERATURE)
    (-(experience.samples.expand(advantages) * expected * log_probs).mean()).backward()
    parameters = policy.get_parameters()
    gradients = {name: own.grad for name, own in parameters.items()}
    before = {name: own.detach().clone() for name, own in parameters.items()}
    policy.model.zero_grad()
    trainer.update(experience)
    for name, own in parameters.items():
        torch.testing.assert_close(before[name] - own.detach(), gradients[name], rtol=1e-4, atol=1e-5)
