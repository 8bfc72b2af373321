"""Language models small enough for tests, of families that differ in what an adapter must get right.

Each is built from a config alone, with weights wide enough that its logits, and so its completions, differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from models import Quiet
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from grpo_adapters.huggingface import CausalLMPolicy, Completion, SamplingConfig, character_tokenizer

CHARACTERS = "0123456789+= ab"
VOCABULARY_SIZE = len(CHARACTERS) + 2
CONTEXT = 64
PROMPTS = ["1+2=", "a b a b 12+34 = ", "7", "b=0+9 "]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}{{ message['content'] }}"
    "{% if not loop.last or not continue_final_message %}={% endif %}{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)
"""Each message is the first letter of its role, its content and =; the assistant's own begins with a."""

WIDE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
}
GROUPED = WIDE | {"num_key_value_heads": 1}
GEMMA = GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8, "final_logit_softcapping": 2.0}
PLAIN = {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": None}

FAMILIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "gpt2": (GPT2Config, PLAIN | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}),
    "llama": (LlamaConfig, GROUPED),
    "qwen3": (Qwen3Config, GROUPED | {"head_dim": 8}),
    "gemma2": (Gemma2Config, GEMMA),
    "gemma3": (Gemma3TextConfig, GEMMA),
    "gpt_neox": (GPTNeoXConfig, WIDE | {"tie_word_embeddings": False}),
    "mistral": (MistralConfig, GROUPED | {"sliding_window": 8}),
    "mamba": (MambaConfig, PLAIN | {"hidden_size": 16, "num_hidden_layers": 2}),
    "opt": (
        OPTConfig,
        PLAIN
        | {
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT,
            "word_embed_proj_dim": 8,
        },
    ),
    "bloom": (BloomConfig, PLAIN | {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "cohere": (CohereConfig, GROUPED | {"logit_scale": 0.25}),
    "granite": (GraniteConfig, GROUPED | {"logits_scaling": 3.0}),
    "lfm2": (Lfm2Config, GROUPED | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 32}),
}

HEEDLESS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "rwkv": (RwkvConfig, PLAIN | {"hidden_size": 16, "num_hidden_layers": 2, "context_length": CONTEXT}),
    "recurrent_gemma": (
        RecurrentGemmaConfig,
        GROUPED | {"lru_width": 16, "attention_window_size": 8, "block_types": ("recurrent", "attention")},
    ),
    "bart": (
        BartConfig,
        PLAIN
        | {
            "d_model": 16,
            "decoder_layers": 2,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": CONTEXT,
        },
    ),
}
"""Families that compute something else where a prompt is padded on the left, attention mask or not."""


def build_model(
    family: str = "gpt2", *, seed: int = 0, dtype: torch.dtype = torch.float32, std: float = 0.4, **changes: Any
) -> Any:
    """A causal language model, in evaluation mode.

    Args:
        family: one of the names of FAMILIES or of HEEDLESS.
        seed: of its weights.
        dtype: of its parameters.
        std: of the weights of its layers; the larger, the less alike are the tokens that may come next.
        changes: of its config.
    """
    config_class, settings = (FAMILIES | HEEDLESS)[family]
    config = config_class(**({"vocab_size": VOCABULARY_SIZE} | settings | changes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=std)
    return model.to(dtype).eval()


def build_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of the characters that the models know."""
    return character_tokenizer(CHARACTERS, **options)


def build_policy(
    family: str = "gpt2", *, kind: Callable[..., Any] = CausalLMPolicy, model: Any = None, **options: Any
) -> Any:
    """A policy of a small model, of at most 8 new tokens where nothing else is asked for.

    Args:
        family: one of the names of FAMILIES.
        kind: its class.
        model: in place of one of the family.
        options: of the policy.
    """
    defaults = {"tokenizer": build_tokenizer(), "sampling": SamplingConfig(max_new_tokens=8)}
    with torch.random.fork_rng():  # adapters begin at random
        torch.manual_seed(0)
        return kind(build_model(family) if model is None else model, **(defaults | options))


def random_completions(count: int, *, seed: int = 0, longest: int = 12) -> list[Completion]:
    """Completions of any tokens and any lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokenizer = build_tokenizer()
    completions = []
    for length in torch.randint(1, longest + 1, (count,), generator=generator).tolist():
        token_ids = torch.randint(0, VOCABULARY_SIZE, (length,), generator=generator).tolist()
        text = str(tokenizer.decode(token_ids, skip_special_tokens=True))
        completions.append(Completion(tuple(token_ids), text, token_ids[-1] == 0))
    return completions


def sampled(policy: Any, prompts: Sequence[Any] = PROMPTS, count: int = 3) -> tuple[list[Any], list[Completion]]:
    """States and completions of a policy, N each."""
    groups = policy.generate_actions(prompts, count)
    return [prompt for prompt in prompts for _ in range(count)], [one for group in groups for one in group]


def plain_evaluation(
    model: Any, prompts: Sequence[str], completions: Sequence[Completion], temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of each token, [D] each, from a forward pass of each sample alone."""
    tokenizer = build_tokenizer()
    parts = []
    for prompt, completion in zip(prompts, completions, strict=True):
        token_ids = [*tokenizer(prompt)["input_ids"], *completion.token_ids]
        logits = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
        log_probs = (logits[-len(completion) - 1 : -1] / temperature).log_softmax(-1)
        chosen = log_probs.gather(1, torch.tensor(completion.token_ids).unsqueeze(1)).squeeze(1)
        parts.append((chosen, -(log_probs.exp() * log_probs).sum(-1)))
    log_probs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_probs, entropy


class ShareOf(Quiet):
    """Rewards the share of a character in a completion."""

    def __init__(self, character: str = "7") -> None:
        self.character = character

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Completion]) -> Tensor:
        return torch.tensor([action.text.count(self.character) / len(action) for action in actions])
