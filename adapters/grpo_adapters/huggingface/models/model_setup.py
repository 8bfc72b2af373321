"""What a causal language model goes through before it becomes a policy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation

from grpo_adapters.huggingface.models.adapter_targets import with_targets
from grpo_adapters.huggingface.models.loading import (
    ADAPTER_CONFIG,
    expanded,
    load_pretrained,
    refuse_pickles,
    require_tokenizer,
)


def model_and_tokenizer(
    model: Any, tokenizer: Any, dtype: torch.dtype | None, *, trust_remote_code: bool
) -> tuple[Any, Any]:
    """A model and a tokenizer as they are; where the model is a name or a folder, loaded from there.

    Args:
        model: a name on the hub, a folder, or a model.
        tokenizer: None for the one that comes with the name or folder.
        dtype: of the parameters of a model that is loaded here; None for float32.
        trust_remote_code: execute code that comes with a model from the hub.

    Raises:
        OSError: if there is no such model.
        ValueError: if there is a dtype for a model that is not loaded here.
    """
    if not isinstance(model, str | Path):
        if dtype is not None:
            raise ValueError(f"dtype={dtype} is for a model that is loaded here: call model.to({dtype}) on yours")
        return model, tokenizer
    if tokenizer is None:
        tokenizer = load_pretrained(AutoTokenizer, model, trust_remote_code=trust_remote_code)
    return _load_causal_lm(model, dtype=dtype or torch.float32, trust_remote_code=trust_remote_code), tokenizer


def _load_causal_lm(name: str | Path, *, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """A model from the hub or a folder; where the folder holds adapters, with these to train further."""
    name = expanded(name)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if not Path(name, ADAPTER_CONFIG).is_file():
        return load_pretrained(AutoModelForCausalLM, name, **options)
    refuse_pickles(Path(name))
    base = PeftConfig.from_pretrained(str(name)).base_model_name_or_path
    if not base:
        raise ValueError(
            f"the adapters in folder '{name}' do not say which model they change: load that model, and pass "
            f"peft.PeftModel.from_pretrained(model, {str(name)!r}, is_trainable=True)"
        )
    model = load_pretrained(AutoModelForCausalLM, base, **options)
    return PeftModel.from_pretrained(model, str(name), is_trainable=True)


def check_would_be_loaded(model: Any, folder: Path) -> None:
    """What is written into a folder must be what is loaded from there.

    Raises:
        ValueError: if a whole model is to go where an adapter lies, or an adapter that was merged has no weights left.
    """
    if isinstance(model, PeftModel) and not get_peft_model_state_dict(model):
        raise ValueError(
            f"the adapter of {type(without_adapters(model)).__name__} has no weights left, since it was merged into "
            f"the model: save what merge_and_unload() returned by its own save_pretrained(folder), and "
            f"policy.tokenizer.save_pretrained(folder) beside it"
        )
    if not isinstance(model, PeftModel) and (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{folder} holds an adapter, which would be loaded in place of the model: take another folder")


def check_causal_lm(model: object) -> None:
    """A model must be a causal language model, with its head.

    Raises:
        TypeError: if it is not.
    """
    inner = without_adapters(model)
    if isinstance(inner, PreTrainedModel) and inner.can_generate() and not inner.config.is_encoder_decoder:
        return
    raise TypeError(
        f"model is a {type(inner).__name__}, expected a causal language model with its head: a name, a folder, or what "
        f"transformers.AutoModelForCausalLM.from_pretrained gives"
    )


def check_does_not_look_ahead(model: Any) -> None:
    """What a model makes of a token must not depend on later ones, which a few tokens tell.

    Raises:
        TypeError: if it does.
    """
    tokens = torch.arange(4, device=model.device).unsqueeze(0) % num_embeddings(model)
    changed = tokens.clone()
    changed[0, -1] = 0
    with torch.no_grad():
        logits, after = (model(input_ids=each, use_cache=False).logits[0, :-1].float() for each in (tokens, changed))
    rounding = 10 * torch.finfo(model.dtype).eps * float(logits.abs().max())
    if not torch.allclose(logits, after, rtol=0.0, atol=rounding, equal_nan=True):
        raise TypeError(
            f"{type(model).__name__} looks ahead: its logits at a token depend on later ones. Expected a causal "
            f"language model; one like BERT needs config.is_decoder=True"
        )


def num_embeddings(model: Any) -> int:
    """Tokens that a model embeds."""
    weight: Tensor = model.get_input_embeddings().weight
    return len(weight)


def with_adapters(model: Any, peft_config: PeftConfig | None) -> Any:
    """The model, with adapters to train where a config asks for them.

    Raises:
        TypeError: if the config is none.
        ValueError: if the method trains no weights of the model's layers, or the model has adapters already.
    """
    if peft_config is not None:
        if isinstance(model, PeftModel):
            raise ValueError("the model has adapters already, which will be trained: leave out peft_config")
        if not isinstance(peft_config, PeftConfig):
            raise TypeError(
                f"peft_config is a {type(peft_config).__name__}, expected a peft.PeftConfig, such as "
                f"peft.LoraConfig(r=8)"
            )
        if not peft_config.is_prompt_learning:
            with warnings.catch_warnings():
                # peft asks by a name that transformers gives up
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                return get_peft_model(model, with_targets(peft_config, model))
    config = model.active_peft_config if isinstance(model, PeftModel) else peft_config
    if config is not None and config.is_prompt_learning:
        raise ValueError(
            f"{type(config).__name__} learns a prompt and no weights: use a method that changes the model's layers, "
            f"such as peft.LoraConfig"
        )
    return model


def without_adapters(model: Any) -> Any:
    """The model that holds the layers, with adapters among them where there are any."""
    has_adapters = isinstance(model, PeftModel)
    return model.get_base_model() if has_adapters else model


def check_tokenizer(tokenizer: object, model: Any) -> PreTrainedTokenizerBase:
    """The tokenizer, which must know no token that the model does not embed.

    Raises:
        TypeError: if it is no tokenizer.
        ValueError: if it has more tokens than the model.
    """
    tokenizer = require_tokenizer(tokenizer)
    embedded = num_embeddings(model)
    if len(tokenizer) > embedded:
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model embeds {embedded:,}: use the model's own "
            f"tokenizer, or call model.resize_token_embeddings({len(tokenizer)})"
        )
    return tokenizer


def enable_checkpointing(model: Any) -> None:
    """Keep only what goes from layer to layer for the backward pass."""
    newer_name = getattr(model, "activation_checkpointing_enable", None)
    (newer_name or model.gradient_checkpointing_enable)({"use_reentrant": False})


def use_fused_activations(model: nn.Module) -> None:
    """Put PyTorch's own GELU in the place of one that is made of eight operations, the same function up to rounding.

    Each of the eight keeps its result for the backward pass; in GPT-2 that is a third of all activations.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a completion: those of the model's generation config, and the tokenizer's own."""
    configured = model.generation_config.eos_token_id
    told = configured if isinstance(configured, list) else [configured]
    known = range(num_embeddings(model))
    return {token for token in (*told, tokenizer.eos_token_id) if token in known}


def longest_prompt(model: Any, max_new_tokens: int) -> int | None:
    """Tokens that a prompt may have if so many are to follow in the model's context; None where that has no end.

    Raises:
        ValueError: if there is no room for any.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and context <= max_new_tokens:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected less than the model's context, {context}")
    return None if context is None else context - max_new_tokens
