"""A model in training that computes what it computed when it sampled."""

from __future__ import annotations

import warnings
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
def warn_of_noise(model: Any, causal_model: Any, *, stacklevel: int) -> None:
    """Tell what computes otherwise in training than in sampling, which a few tokens tell; leaves evaluation mode.

    Args:
        model: with its adapters, in evaluation mode.
        causal_model: without them.
        stacklevel: of the warning.
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
        culprits = _kinds_in_training(model) if differ() else []
        for kind in list(culprits):
            model.eval()
            for module in model.modules():
                module.training = type(module) is kind
            if not differ():
                culprits.remove(kind)
        model.eval()
    if culprits:
        names = ", ".join(kind.__name__ for kind in culprits)
        warnings.warn(
            f"{type(causal_model).__name__} computes other logits in training than in sampling, though dropout is off: "
            f"so does {names} in training mode. The first update of a step is then not of the policy that sampled: "
            f"look for noise among the settings of the model's config",
            stacklevel=stacklevel,
        )


def _kinds_in_training(model: nn.Module) -> list[type[nn.Module]]:
    return list(dict.fromkeys(type(module) for module in model.modules() if module.training))
