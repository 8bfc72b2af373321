"""Models that code positions otherwise once a sequence has grown beyond a length (LongRoPE).

The switch goes by the longest sequence of a call, and changes what the model makes of every token in it. The policy is
the model as it samples: the token after n others is drawn by a call of n tokens. So decisions up to the switch and
those beyond it are computed in calls of their own, whatever rows there are besides.

References:
    Ding et al. 2024, "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", arXiv:2402.13753.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def length_of_switch(model: Any) -> int | None:
    """The longest sequence before the model codes positions otherwise, tokens; None where it never does.

    Raises:
        ValueError: if some layers do from one length on, and others from another.
    """
    config = model.config.get_text_config()
    lengths = {
        int(parameters.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        for parameters in _rope_parameters(config)
        if "longrope" in (parameters.get("rope_type"), parameters.get("type"))
    }
    if len(lengths) > 1:
        raise ValueError(
            f"layers of {type(model).__name__} switch to long positions at different lengths, {sorted(lengths)}: set "
            f"original_max_position_embeddings to the same value in all of config.rope_parameters"
        )
    return next(iter(lengths), None)


def _rope_parameters(config: Any) -> Iterator[dict[str, Any]]:
    """Those of the model, or of each kind of its layers."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    yield parameters
    yield from (own for own in parameters.values() if isinstance(own, dict))
