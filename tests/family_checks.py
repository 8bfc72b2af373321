"""What a policy of a family of language models must get right, each as an error that should be about 0."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

import torch
from language_model_families import build_family, greedy_by_transformers
from language_models import build_tokenizer, plain_evaluation, random_completions
from peft import LoraConfig
from torch import Tensor

from grpo_adapters.huggingface import CausalLMPolicy, Completion, SamplingConfig

PROMPTS = ["1+2=", "a b a b 12+3", "7", "b=0+9"]


@dataclasses.dataclass(frozen=True)
class FamilyResult:
    """What was found of a family.

    Attributes:
        log_probs: largest difference of a token's log-prob from that of the plain model, nats.
        gradients: largest difference of a gradient from the plain model's, as a share of the largest entry.
        greedy: share of prompts whose likeliest completion is that of transformers.
        lora: as ``log_probs``, with adapters on default targets, in training mode; None where there are no such.
        checkpointing: as ``gradients``, compared with those without gradient checkpointing; None where it is not
            supported.
        bfloat16: as ``log_probs``, with parameters in bfloat16.
        fuses_head: whether log-probs are computed without all logits.
        pads: whether prompts of different lengths are sampled together.
        caches: whether sampling goes on from a cache.
    """

    log_probs: float
    gradients: float
    greedy: float
    lora: float | None
    checkpointing: float | None
    bfloat16: float
    fuses_head: bool
    pads: bool
    caches: bool


def check_family(name: str) -> FamilyResult:
    """Check a family with random weights."""
    model = build_family(name)
    policy = policy_of(model)
    expected = plain_log_probs(model)
    found = log_probs_of(policy)
    plain_gradients, gradients = gradients_of(model, expected), gradients_of(model, found)
    return FamilyResult(
        log_probs=difference(found, expected),
        gradients=relative_difference(gradients, plain_gradients),
        greedy=share_of_greedy(policy),
        lora=adapter_error(name),
        checkpointing=checkpointing_error(model, gradients),
        bfloat16=bfloat16_error(name),
        fuses_head=policy.fuses_head,
        pads=policy._traits.pads,
        caches=policy._traits.caches,
    )


def policy_of(model: Any, **options: Any) -> CausalLMPolicy:
    """A policy of at most 8 new tokens."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* does not go on from a cache of earlier tokens")
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # which peft sets right
        return CausalLMPolicy(model, build_tokenizer(), sampling=SamplingConfig(max_new_tokens=8), **options)


def samples() -> tuple[list[str], list[Completion]]:
    """Prompts of different lengths with completions of any tokens."""
    return PROMPTS, random_completions(len(PROMPTS), longest=8)


def log_probs_of(policy: CausalLMPolicy) -> Tensor:
    """The policy's own, [D]."""
    return policy.evaluate_actions(policy.encode_actions(*samples())).log_probs


def plain_log_probs(model: Any) -> Tensor:
    """Those of a forward pass of each sample alone, [D]."""
    return plain_evaluation(model, *samples())[0].float()


def gradients_of(model: Any, log_probs: Tensor) -> dict[str, Tensor]:
    """Of a sum of log-probs with a different weight for each."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    loss = (torch.linspace(1, 2, len(log_probs)) * log_probs).sum()
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: part for name, part in zip(parameters, found, strict=True) if part is not None}


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest between two tensors."""
    return float((found - expected).detach().abs().max())


def relative_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest between gradients, as a share of the largest entry of any; infinite where one is missing."""
    if found.keys() != expected.keys():
        return float("inf")
    largest = max(float(value.abs().max()) for value in expected.values())
    return max(difference(found[name], value) for name, value in expected.items()) / largest


def share_of_greedy(policy: CausalLMPolicy) -> float:
    """Of the prompts, all sampled at once."""
    completions = policy.complete(PROMPTS)
    pairs = zip(PROMPTS, completions, strict=True)
    return sum(greedy_by_transformers(policy, prompt) == list(own.token_ids) for prompt, own in pairs) / len(PROMPTS)


def adapter_error(name: str) -> float | None:
    """Of log-probs with adapters that already change the model; only they must have a gradient."""
    torch.manual_seed(0)
    try:
        policy = policy_of(build_family(name), peft_config=LoraConfig(r=2, init_lora_weights=False))
    except ValueError as error:
        if "names no target_modules" not in str(error):
            raise
        return None
    expected = plain_log_probs(policy.causal_model)
    found = log_probs_of(policy.train())
    gradients = gradients_of(policy.model, found)
    if not gradients or not all("lora_" in changed for changed in gradients):
        return float("inf")
    return difference(found, expected)


def checkpointing_error(model: Any, expected: dict[str, Tensor]) -> float | None:
    """Of gradients; the model is checkpointed afterwards."""
    if not model.supports_gradient_checkpointing:
        return None
    policy = policy_of(copy.deepcopy(model), gradient_checkpointing=True).train()
    return relative_difference(gradients_of(policy.causal_model, log_probs_of(policy)), expected)


def bfloat16_error(name: str) -> float:
    """Of log-probs; all gradients must be finite."""
    policy = policy_of(build_family(name, dtype=torch.bfloat16))
    with torch.no_grad():
        expected = plain_log_probs(policy.causal_model)
    found = log_probs_of(policy)
    finite = all(bool(value.isfinite().all()) for value in gradients_of(policy.causal_model, found).values())
    return difference(found, expected) if finite else float("inf")
