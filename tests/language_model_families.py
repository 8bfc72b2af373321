"""Families of language models in transformers, each as small a model as it can be: one table for tests and figures."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY_SIZE = 17
CONTEXT = 64

USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
    "sliding_window": 8,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
    "is_decoder": True,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    # latent attention
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    # state spaces and linear attention
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
"""What most families call these settings, where they have them."""

TWO_KEYS: dict[str, Any] = {"num_key_value_heads": 2}
LINEAR_AND_FULL: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
CONVOLUTION_AND_FULL: dict[str, Any] = {"layer_types": ["conv", "full_attention"]}
LONG_ROPE: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
        "original_max_position_embeddings": 16,
    },
    "original_max_position_embeddings": 16,
}

GEMMA_3N: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "activation_sparsity_pattern": [0.0, 0.0],
    "vocab_size_per_layer_input": VOCABULARY_SIZE,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "final_logit_softcapping": 2.0,
}
GEMMA_4: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": VOCABULARY_SIZE,
    "hidden_size_per_layer_input": 8,
    "global_head_dim": 8,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": {},
    "apertus": {},
    "arcee": {},
    "axk1": TWO_KEYS,
    "bailing_hybrid": LINEAR_AND_FULL | TWO_KEYS,
    "bamba": {"attn_layer_indices": [1]},
    "bart": {
        "decoder_ffn_dim": 32,
        "forced_eos_token_id": None,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "is_encoder_decoder": False,
    },
    "beam": {},
    "bert": {},
    "big_bird": {},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "cohere2_moe": {"logit_scale": 0.25},
    "ctrl": {"dff": 32},
    "cwm": {"bos_token_id": 0, "pad_token_id": 0},
    "deepseek_v2": TWO_KEYS,
    "deepseek_v3": TWO_KEYS,
    "deepseek_v32": TWO_KEYS | {"index_n_heads": 2, "index_head_dim": 8, "index_topk": CONTEXT},
    "diffllama": TWO_KEYS,
    "doge": {},
    "dots1": {},
    "electra": {},
    "ernie": {},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {},
    "exaone_moe": {},
    "falcon": {},
    "falcon_h1": {"mamba_d_ssm": 32, "lm_head_multiplier": 0.25},
    "falcon_mamba": {},
    "flex_olmo": {},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "gemma3_text": {},
    "gemma3n_text": GEMMA_3N,
    "gemma4_text": GEMMA_4,
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe_lite": TWO_KEYS,
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_oss": {},
    "gptj": {"rotary_dim": 4},
    "granite": {"logits_scaling": 3.0},
    "granitemoe": {"logits_scaling": 3.0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 16, "logits_scaling": 3.0},
    "granitemoeshared": {"logits_scaling": 3.0},
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "hyperclovax": {},
    "internlm3": {},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "jetmoe": {},
    "kimi_linear": LINEAR_AND_FULL
    | TWO_KEYS
    | {"linear_head_dim": 8, "linear_num_heads": 2, "mlp_layer_types": ["dense", "sparse"]},
    "lfm2": CONVOLUTION_AND_FULL | {"block_ff_dim": 32},
    "lfm2_moe": CONVOLUTION_AND_FULL | {"num_dense_layers": 1},
    "llama": {},
    "llama4_text": {},
    "mamba": {},
    "mamba2": {"num_heads": 4, "state_size": 8, "n_groups": 1},
    "megatron-bert": {},
    "mimo_v2_flash": {},
    "minicpm3": TWO_KEYS | {"dim_model_base": 8},
    "minimax": {},
    "minimax_m2": {},
    "ministral": {},
    "mistral": {},
    "mixtral": {"router_jitter_noise": 0.3},
    "modernbert-decoder": {
        "bos_token_id": 1,
        "pad_token_id": 1,
        "cls_token_id": 1,
        "sep_token_id": 1,
        "local_attention": 8,
    },
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {
        "layer_types": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmo_hybrid": LINEAR_AND_FULL,
    "olmoe": {},
    "openai-gpt": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 8},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {"router_jitter_noise": 0.3, "input_jitter_noise": 0.1},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_5_moe_text": LINEAR_AND_FULL,
    "qwen3_5_text": LINEAR_AND_FULL,
    "qwen3_moe": {},
    "qwen3_next": LINEAR_AND_FULL,
    "recurrent_gemma": {"block_types": ("recurrent", "attention"), "attention_window_size": 8, "lru_width": 16},
    "rembert": {"input_embedding_size": 8, "output_embedding_size": 16},
    "roformer": {},
    "rwkv": {},
    "seed_oss": {},
    "smollm3": {},
    "solar_open": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {},
    "xglm": {"ffn_dim": 32, "attention_heads": 2},
    "youtu": TWO_KEYS,
}
"""What else a family needs, or shows what it is."""


def build_family(name: str, *, dtype: torch.dtype = torch.float32, std: float = 0.4, **changes: Any) -> Any:
    """A model of a family with random weights, in evaluation mode.

    Args:
        name: of the family, as configs tell it.
        dtype: of its parameters.
        std: of the weights of its layers; the larger, the less alike are the tokens that may come next.
        changes: of its config.
    """
    config_class = CONFIG_MAPPING[name]
    known = {field.name for field in dataclasses.fields(config_class)} | config_class.attribute_map.keys()
    usual = {setting: value for setting, value in USUAL.items() if setting in known}
    config = config_class(**copy.deepcopy(usual | FAMILIES.get(name, {}) | changes))  # which configs write into
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=std)
    return model.to(dtype).eval()


def greedy_by_transformers(policy: Any, prompt: str) -> list[int]:
    """The likeliest completion of a prompt alone, by transformers' own way of generating."""
    token_ids = torch.tensor([policy.tokenizer(prompt)["input_ids"]])
    generated: torch.Tensor = policy.causal_model.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        do_sample=False,
        max_new_tokens=policy.sampling.max_new_tokens,
        eos_token_id=0,
        pad_token_id=0,
    )
    found: list[int] = generated[0, token_ids.shape[1] :].tolist()
    return found
