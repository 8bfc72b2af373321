"""What makes a model slow, large, or another one in training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from grpo_adapters.huggingface.decoding.decoder import DecodingTraits


def warn_of_peculiarities(
    model: object, traits: DecodingTraits, fuses_head: bool, noisy: Sequence[str], *, ends: bool
) -> None:
    """Tell the caller of a constructor what somebody who trains a model should know of it, in a sentence or two each.

    Args:
        model: a causal language model without adapters.
        traits: how it decodes.
        fuses_head: whether log-probs come from hidden states, without all logits.
        noisy: what in it is noisy in training though dropout is off.
        ends: whether a completion can end before it is as long as it may be.
    """
    name = type(model).__name__
    found = []
    if not fuses_head:
        found.append(
            f"the logits of {name} are not a linear layer of its body's hidden states: log-probs are computed from all "
            f"logits, which takes more memory"
        )
    if not traits.caches:
        found.append(
            f"{name} does not go on from a cache of earlier tokens: to sample a token, all before it are computed "
            f"again, which takes more time"
        )
    if noisy:
        found.append(
            f"{name} computes other logits in training than in sampling, though dropout is off: so does "
            f"{', '.join(noisy)} in training mode. What is trained is then not the policy that sampled: look for noise "
            f"among the settings of the model's config"
        )
    if not ends:
        found.append(
            "neither the tokenizer nor the model has an end token: every completion goes on for max_new_tokens, unless "
            "stop_strings are given"
        )
    for text in found:
        warnings.warn(text, stacklevel=3)
