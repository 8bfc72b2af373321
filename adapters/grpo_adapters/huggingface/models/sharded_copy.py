"""A second model in parts, with the weights of the first."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from grpo_adapters.huggingface.models.model_setup import use_fused_activations
from grpo_adapters.huggingface.models.sharding import FSDP2Config, cut
from grpo_adapters.huggingface.models.training_mode import switch_dropout_off


@torch.no_grad()
def frozen_copy(model: Any, parameters: Mapping[str, Tensor], config: FSDP2Config | None) -> Any:
    """A copy of a model in parts, which is not trained, and no process holds more than its part of.

    Args:
        model: a causal language model in parts.
        parameters: its parts.
        config: how it was cut; None where that is not known.

    Raises:
        ValueError: if a model of the same class and config is not of the same parameters.
    """
    if config is None:
        raise ValueError(
            "the model was cut into parts before it became a policy, so a copy of it cannot be: load its weights once "
            "more, cut that model in the same way, and pass CausalLMPolicy(that_model, tokenizer) as reference_policy"
        )
    first = next(iter(parameters.values()))
    assert isinstance(first, DTensor)
    with torch.device("meta"):
        hollow = type(model).__bases__[-1](copy.deepcopy(model.config)).to(first.dtype)
    use_fused_activations(hollow)
    switch_dropout_off(hollow)
    own, others = (
        {name: list(tensor.shape) for name, tensor in (*named.items(), *module.named_buffers())}
        for module, named in ((model, parameters), (hollow, dict(hollow.named_parameters())))
    )
    if own != others:
        name = next(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
        raise ValueError(
            f"a {type(hollow).__name__} of the model's config has {name} of shape {others.get(name)}, the model "
            f"{own.get(name)}: load the model once more, and pass CausalLMPolicy(that_model, tokenizer, shard=...) as "
            f"reference_policy"
        )
    cut(hollow, first.device_mesh, config, first.dtype)
    hollow.to_empty(device=first.device)
    hollow.tie_weights()
    named = dict(hollow.named_parameters())
    for name, parameter in parameters.items():
        _local(named[name]).copy_(_local(parameter))
    buffers = dict(hollow.named_buffers())
    for name, buffer in model.named_buffers():
        buffers[name].copy_(buffer)
    return hollow.requires_grad_(False).eval()


def _local(parameter: Tensor) -> Tensor:
    assert isinstance(parameter, DTensor)
    return parameter.to_local()
