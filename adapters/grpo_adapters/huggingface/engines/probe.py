"""Whether a server computes what the policy does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.engines.dialect import Answer
from grpo_adapters.huggingface.engines.errors import EngineAnswerError, EngineModelError, EngineWeightsError
from grpo_adapters.huggingface.models.model_setup import num_embeddings
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy

PROBE = SamplingConfig(temperature=2.0, max_new_tokens=8)  # log-probs of before the temperature would differ
PROBE_COUNT = 4


def probe_prompt(policy: CausalLMPolicy) -> tuple[int, ...]:
    """Up to 8 tokens from all over the vocabulary."""
    vocabulary = num_embeddings(policy.causal_model)
    return tuple(range(0, vocabulary, max(1, vocabulary // 8)))[:8]


def check_answer(answer: Answer, num_tokens: int, max_new_tokens: int, url: str) -> None:
    """An answer must have tokens that the policy knows, as many as were asked for at most, and their log-probs.

    Raises:
        EngineModelError: if the policy has no such token.
        EngineAnswerError: if it is not as it was asked for.
    """
    wrong = next((token for token in answer.token_ids if not 0 <= token < num_tokens), None)
    if wrong is not None:
        raise EngineModelError(
            f"{url} answered with the token {wrong}, expected tokens from 0 to {num_tokens - 1}, which the policy "
            f"knows: it serves a model of another vocabulary"
        )
    if answer.log_probs is None or len(answer.log_probs) != len(answer.token_ids):
        told = 0 if answer.log_probs is None else len(answer.log_probs)
        raise EngineAnswerError(
            f"{url} told {told} log-probs of {len(answer.token_ids)} tokens, expected one for each: start vLLM without "
            f"a --max-logprobs below 0, and SGLang with log-probs"
        )
    if not all(map(math.isfinite, answer.log_probs)):
        raise EngineAnswerError(
            f"{url} told log-probs that are NaN or infinite, {answer.log_probs[:4]}..., expected finite ones: its "
            f"computation has left the range of its precision"
        )
    if not (1 <= len(answer.token_ids) <= max_new_tokens):
        raise EngineAnswerError(
            f"{url} answered with {len(answer.token_ids)} tokens, expected 1 to {max_new_tokens}, as it was asked for"
        )


def check_agreement(
    policy: CausalLMPolicy,
    prompt: Sequence[int],
    answers: Sequence[Answer],
    *,
    sampling: SamplingConfig,
    largest_gap: float,
    url: str,
) -> None:
    """Log-probs of a probe must be the policy's.

    Args:
        policy: whose weights the server has.
        prompt: token ids that were continued.
        answers: sampled by ``PROBE``.
        sampling: what is to be sampled afterwards.
        largest_gap: mean absolute difference of log-probs, nats, at the most.
        url: of the server.

    Raises:
        EngineWeightsError: if they are further away.
        EngineAnswerError: if the server tells log-probs of before temperature and filters, where there are any.
    """
    gap = _mean_gap(policy, prompt, answers, PROBE.temperature)
    raw_gap = _mean_gap(policy, prompt, answers, 1.0)
    is_plain = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (1.0, None, 1.0, None)
    if raw_gap < gap / 2 and raw_gap <= largest_gap:
        if is_plain:
            return
        raise EngineAnswerError(
            f"{url} tells log-probs of before temperature and filters, but tokens are drawn with temperature="
            f"{sampling.temperature:g}, top_k={sampling.top_k}, top_p={sampling.top_p:g}, min_p={sampling.min_p}: "
            f"start vLLM with --logprobs-mode processed_logprobs"
        )
    if not gap <= largest_gap:
        raise EngineWeightsError(
            f"log-probs of {url} are {gap:.3g} nats from the policy's on average, expected at most {largest_gap:g}: it "
            f"serves another model than the policy's, or has not taken its weights over; where it is meant to compute "
            f"in a much lower precision, raise largest_gap"
        )


@torch.no_grad()
def _mean_gap(policy: CausalLMPolicy, prompt: Sequence[int], answers: Sequence[Answer], temperature: float) -> float:
    gaps = []
    for answer in answers:
        tokens = torch.tensor([[*prompt, *answer.token_ids]], device=policy.device)
        logits = policy.causal_model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        ours = (logits / temperature).log_softmax(-1).gather(1, tokens[0, len(prompt) :, None]).squeeze(1)
        gaps.append((ours - ours.new_tensor(answer.log_probs)).abs())
    return float(torch.cat(gaps).mean())
