"""Which layers adapters change where their config names none."""

from __future__ import annotations

import copy
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

FUSED = {"gate_proj", "up_proj"}
"""Names by which peft knows layers that transformers has fused with others, wherever they are."""


def with_targets(config: PeftConfig, model: Any) -> PeftConfig:
    """A copy of the config with layers to change: those that it names, those that peft knows of, else all attention.

    A copy, since peft writes the model's name and more into the config that it is given, which may serve again.

    Raises:
        ValueError: if it names none, and the model has no linear layers of attention that could be recognised.
    """
    chosen = copy.copy(config)
    if getattr(config, "target_modules", "none needed") is not None or getattr(config, "target_parameters", None):
        return chosen
    methods: dict[Any, Any] = PEFT_TYPE_TO_TUNER_MAPPING
    known = getattr(methods.get(config.peft_type), "target_module_mapping", {})
    targets = known.get(model.config.model_type) or attention_projections(model)
    if not targets:
        layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)]
        raise ValueError(
            f"{type(config).__name__} names no target_modules, and {type(model).__name__} has no layers of attention "
            f"that are its targets by default: name some of its linear layers, "
            f"{sorted({_ending(name) for name in layers})}"
        )
    own: Any = chosen
    own.target_modules = targets if isinstance(targets, str) else set(targets)
    return chosen


def attention_projections(model: nn.Module) -> set[str]:
    """The linear layers of all attention, by the ends of their names: queries, keys, values and what follows them.

    Example:
        >>> from transformers import Olmo2Config, Olmo2ForCausalLM
        >>> config = Olmo2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        >>> model = Olmo2ForCausalLM(config)
        >>> sorted(attention_projections(model))
        ['self_attn.k_proj', 'self_attn.o_proj', 'self_attn.q_proj', 'self_attn.v_proj']
    """
    return {
        _ending(f"{name}.{inner}")
        for name, module in model.named_modules()
        if "attention" in type(module).__name__.lower()
        for inner, layer in module.named_children()
        if isinstance(layer, nn.Linear | Conv1D) and inner not in FUSED
    }


def _ending(name: str) -> str:
    """The last two parts of a layer's name, which tell it from layers of other blocks."""
    return ".".join(name.split(".")[-2:])
