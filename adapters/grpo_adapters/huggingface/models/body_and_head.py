"""A causal language model taken apart: a body that makes hidden states, a head that makes logits of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grpo_adapters.huggingface.models.output_head import OutputHead, logits_of

NUM_PROBED_TOKENS = 4
SCALES_HIDDEN_STATES = {"minicpm3"}
"""Types of models whose ``logits_scaling`` divides what the output layer is given, in place of what it makes."""


def hidden_states(model: Any, tokens: Tensor, **inputs: Any) -> Tensor:
    """What the model gives to its output layer for token ids [B, L]: states [B, L, H], after all that comes before it.

    The model goes its own way, with an output layer that makes no logits. So whatever a family does to the states of
    its body, such as another layer or a cast, is part of them.

    Args:
        model: a causal language model.
        tokens: token ids.
        inputs: what else the model takes, such as keys and values of tokens before.
    """
    with _without_logits(model.get_output_embeddings()) as given:
        model(input_ids=tokens, use_cache="past_key_values" in inputs, **inputs)
    [states] = given
    return states


def all_logits(model: Any, tokens: Tensor, **inputs: Any) -> Tensor:
    """The model's logits [B, L, V] for token ids [B, L].

    Args:
        model: a causal language model.
        tokens: token ids.
        inputs: what else the model takes, such as keys and values of tokens before.
    """
    logits: Tensor = model(input_ids=tokens, use_cache="past_key_values" in inputs, **inputs).logits
    return logits


@contextmanager
def _without_logits(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Let the output layer note what it is given, and make logits of no token."""
    given: list[Tensor] = []
    own = vars(layer).get("forward")  # where hooks of another library have replaced it

    def note(states: Tensor) -> Tensor:
        given.append(states)
        return states[..., :0].clone()  # no view, which FSDP2 warns of

    layer.forward = note
    try:
        yield given
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


def described_head(model: Any) -> OutputHead | None:
    """The head that the model's layers and config tell of; None where it is not a linear layer."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    divisor = 1.0 if config.model_type in SCALES_HIDDEN_STATES else getattr(config, "logits_scaling", None) or 1.0
    soft_caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    soft_cap = next((cap for cap in (getattr(config, name, None) for name in soft_caps) if cap), None)
    return OutputHead(layer.weight, layer.bias, scale=scale / divisor, soft_cap=soft_cap)


@torch.no_grad()
def is_body_and_head(model: Any) -> bool:
    """Whether hidden states through the head that is described are the model's logits, which a few tokens tell.

    Args:
        model: a causal language model, in evaluation mode.
    """
    if described_head(model) is None:
        return False
    tokens = torch.arange(NUM_PROBED_TOKENS, device=model.device).unsqueeze(0) % len(
        model.get_input_embeddings().weight
    )
    expected = model(input_ids=tokens, use_cache=False).logits.squeeze(0).float()
    head = described_head(model)  # as it is after a pass: whole, where the model lies in parts on several processes
    assert head is not None
    try:
        found = logits_of(hidden_states(model, tokens).squeeze(0), head).float()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    # A factor that no config tells shows, however near to 1; rounding does not, since both sides round alike.
    rounding = torch.finfo(head.weight.dtype).eps ** 0.75 * float(expected.abs().max())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0.0, atol=rounding, equal_nan=True)
