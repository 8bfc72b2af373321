"""A model in training that computes what it computed when it sampled."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

NEEDS_TRAINING_MODE = (PreTrainedModel, PeftModel, GradientCheckpointingLayer)
"""Whose mode decides on gradient checkpointing; all others are in training mode for the sake of noise alone."""


def switch_dropout_off(model: nn.Module) -> None:
    """Set every probability of dropout to 0: those of modules, and those that layers keep as numbers."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def enter_training_without_noise(model: nn.Module) -> None:
    """Put a model into training mode, but for its parts that this would make noisy, such as routers with jitter."""
    model.train()
    for module in model.modules():
        if not isinstance(module, NEEDS_TRAINING_MODE):
            module.training = False


@torch.no_grad()
def noisy_in_training(model: Any, causal_model: Any) -> list[str]:
    """The kinds of layers that compute otherwise in training than in sampling even so, which a few tokens tell.

    Args:
        model: with its adapters, in evaluation mode, which it is left in.
        causal_model: without them.
    """
    tokens = torch.arange(4, device=causal_model.device).unsqueeze(0)

    def logits() -> Tensor:
        found: Tensor = causal_model(input_ids=tokens, use_cache=False).logits.float()
        return found

    expected = logits()
    rounding = 10 * torch.finfo(causal_model.dtype).eps * float(expected.abs().max())

    def differ() -> bool:
        return not torch.allclose(logits(), expected, rtol=0.0, atol=rounding, equal_nan=True)

    with torch.random.fork_rng(devices=[causal_model.device] if causal_model.device.type == "cuda" else []):
        enter_training_without_noise(model)
        noisy = list(dict.fromkeys(type(module) for module in model.modules() if module.training)) if differ() else []
        for kind in list(noisy):
            for module in model.modules():
                module.training = type(module) is kind
            if not differ():
                noisy.remove(kind)
        model.eval()
    return [kind.__name__ for kind in noisy]
