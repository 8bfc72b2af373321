"""The parameters that are trained, and the optimizer over them."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from grpo.config import UpdateConfig
from grpo.protocols import type_name
from grpo.schedules import LinearSchedule, at_step
from grpo.validation import NonFiniteError


def optimizer_over(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None, config: UpdateConfig
) -> torch.optim.Optimizer | None:
    """The given optimizer, checked, or AdamW over the parameters; None, with a warning, where there are none."""
    if not parameters:
        warnings.warn(
            "the policy has no trainable parameters: step() only reports, and changes nothing",
            stacklevel=_level_of_caller(),
        )
        return None
    if optimizer is not None:
        check_optimizer(optimizer, parameters)
        return optimizer
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters.values())
    return torch.optim.AdamW(
        list({id(parameter): parameter for parameter in parameters.values()}.values()),
        lr=at_step(config.learning_rate, 0),
        eps=config.adam_epsilon,
        weight_decay=0.0,
        fused=fused,
    )


def _level_of_caller() -> int:
    """How many frames up from the function that asks the first one outside this package is, as warnings count."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "grpo":
        frame, level = frame.f_back, level + 1
    return level


def follow_schedule(optimizer: torch.optim.Optimizer | None, config: UpdateConfig, step: int) -> None:
    """Set the learning rate where the config has a schedule for it."""
    if optimizer is not None and isinstance(config.learning_rate, LinearSchedule):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate.at(step)


def make_step(optimizer: torch.optim.Optimizer, max_grad_norm: float | None, source: str) -> float:
    """Make the optimiser step, scaling the gradient down to ``max_grad_norm``; its norm before that.

    Raises:
        NonFiniteError: if the gradient is not finite; nothing has changed then.
        ValueError: if there is no gradient; ``source`` names what should have made it.
    """
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in held if parameter.grad is not None]
    if not gradients:
        raise ValueError(
            f"no gradient reached a parameter that the optimizer holds: {source} must compute "
            f"log-probs from the very tensors in get_parameters"
        )
    norms = torch._foreach_norm(gradients)
    if len({gradient.device for gradient in gradients}) > 1:
        norms = tuple(norm.to(norms[0].device) for norm in norms)
    grad_norm: float = torch.linalg.vector_norm(torch.stack(norms)).item()
    if not math.isfinite(grad_norm):
        raise NonFiniteError("the gradient is not finite")
    if max_grad_norm is not None and grad_norm > max_grad_norm:
        torch._foreach_mul_(gradients, max_grad_norm / grad_norm)
    optimizer.step()
    return grad_norm


def check_parameters(parameters: object, role: str) -> Mapping[str, Tensor]:
    """``get_parameters`` must return a mapping from names to tensors."""
    if not isinstance(parameters, Mapping) or not all(isinstance(tensor, Tensor) for tensor in parameters.values()):
        raise TypeError(
            f"{role}.get_parameters returned a {type_name(parameters)}, expected a mapping from names to tensors: "
            f"return dict(self.named_parameters()), or {{}} without any"
        )
    return parameters


def check_optimizer(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> None:
    """An optimizer must hold at least one of the trainable parameters, and step without a closure."""
    if not isinstance(optimizer, torch.optim.Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            f"optimizer is {optimizer!r}, expected an instance of a torch.optim.Optimizer that needs no closure, "
            f"such as torch.optim.AdamW(policy.get_parameters().values())"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in parameters.values()):
        raise ValueError(
            f"optimizer {type_name(optimizer)} holds none of the policy's {len(parameters)} trainable parameters: "
            f"build it from policy.get_parameters().values(), the very tensors that the policy computes with"
        )


def check_reference(parameters: Mapping[str, Tensor], reference_parameters: Mapping[str, Tensor]) -> None:
    """A reference policy must not change when the policy is trained."""
    trained = {parameter.data_ptr(): name for name, parameter in parameters.items() if parameter.numel() > 0}
    shared = [trained[tensor.data_ptr()] for tensor in reference_parameters.values() if tensor.data_ptr() in trained]
    if shared:
        raise ValueError(
            f"reference_policy shares trainable parameters with the policy ({', '.join(shared[:3])}"
            f"{', ...' if len(shared) > 3 else ''}) and would change with it: pass copy.deepcopy(policy)"
        )
