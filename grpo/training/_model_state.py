"""The state of a model that need not tell any."""

from __future__ import annotations

from typing import Any

import torch

from grpo.data.state import copied, is_stateful


def model_state(model: Any) -> dict[str, Any]:
    """By its own ``state_dict`` where it has one, else its parameters, if it has any; its ``generator`` besides."""
    state: dict[str, Any] = {}
    if is_stateful(model):
        state["state"] = copied(model.state_dict())
    elif hasattr(model, "get_parameters"):
        state["parameters"] = copied(model.get_parameters())
    generator = getattr(model, "generator", None)
    if isinstance(generator, torch.Generator):
        state["generator"] = generator.get_state()
    return state


def load_model_state(model: Any, state: dict[str, Any], role: str) -> None:
    """Put back what :func:`model_state` took out of such a model.

    Raises:
        ValueError: if the model is another.
    """
    expected = model_state(model)
    parameters, stored = expected.get("parameters", {}), state.get("parameters", {})
    if expected.keys() != state.keys() or parameters.keys() != stored.keys():
        raise ValueError(
            f"state_dict holds {sorted(state)} of {role}, with parameters {sorted(stored)[:5]}, expected "
            f"{sorted(expected)}, with parameters {sorted(parameters)[:5]}: construct the models in the same way"
        )
    if "state" in state:
        model.load_state_dict(copied(state["state"]))
    if "parameters" in state:
        with torch.no_grad():
            for name, tensor in model.get_parameters().items():
                tensor.copy_(stored[name])
    if "generator" in state:
        model.generator.set_state(state["generator"].cpu())
