"""A causal language model taken apart: a body that makes hidden states, a head that makes logits of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from grpo_adapters.huggingface.output_head import OutputHead, logits_of

NUM_PROBED_TOKENS = 4


def hidden_states(model: Any, tokens: Tensor, **inputs: Any) -> Tensor:
    """What the model's body makes of token ids [B, L]: the states [B, L, H] that its head reads.

    Args:
        model: a causal language model.
        tokens: token ids.
        inputs: what else the body takes, such as keys and values of tokens before.
    """
    use_cache = "past_key_values" in inputs
    states: Tensor = model.base_model(input_ids=tokens, use_cache=use_cache, **inputs).last_hidden_state
    return states


def described_head(model: Any) -> OutputHead | None:
    """The head that the model's layers and config tell of; None where it is not a linear layer."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or model.base_model is model:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    soft_cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    return OutputHead(layer.weight, layer.bias, scale=scale / divisor, soft_cap=soft_cap)


@torch.no_grad()
def is_body_and_head(model: Any) -> bool:
    """Whether hidden states through the head that is described are the model's logits, which a few tokens tell.

    Args:
        model: a causal language model, in evaluation mode.
    """
    head = described_head(model)
    if head is None:
        return False
    tokens = torch.arange(NUM_PROBED_TOKENS, device=model.device).unsqueeze(0) % len(head.weight)
    expected = model(input_ids=tokens, use_cache=False).logits.squeeze(0).float()
    try:
        found = logits_of(hidden_states(model, tokens).squeeze(0), head).float()
    except (AttributeError, RuntimeError, TypeError):
        return False
    # A factor that no config tells shows, however near to 1; rounding does not, since both sides round alike.
    rounding = torch.finfo(head.weight.dtype).eps ** 0.75 * float(expected.abs().max())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0.0, atol=rounding, equal_nan=True)
