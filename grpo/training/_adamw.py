"""A step of AdamW by its kernel alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as of_all_optimizers

_step: Any = torch.optim.AdamW.step
STEP = _step.__wrapped__ if getattr(_step, "hooked", False) else _step


def make_step(optimizer: torch.optim.Optimizer) -> None:
    """``optimizer.step()``, and of a fused AdamW the kernel alone, with the same result, where nobody would notice.

    What PyTorch does around the kernel takes much longer than the kernel on a small network.
    """
    kernels = [_kernel(optimizer, group) for group in optimizer.param_groups] if _is_plain(optimizer) else [None]
    if None in kernels:
        optimizer.step()
        return
    with torch.no_grad():
        for steps, change in filter(None, kernels):
            torch._foreach_add_(steps, 1)
            change()


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is PyTorch's own AdamW, and nobody watches its steps or has replaced them."""
    if type(optimizer) is not torch.optim.AdamW or vars(optimizer).keys() & {"step", "grad_scale", "found_inf"}:
        return False
    step: Any = torch.optim.AdamW.step
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        of_all_optimizers._global_optimizer_pre_hooks,
        of_all_optimizers._global_optimizer_post_hooks,
    )
    is_replaced = STEP not in (step, getattr(step, "__wrapped__", None))
    return not (is_replaced or any(hooks) or torch.autograd.profiler._is_profiler_enabled)


def _kernel(
    optimizer: torch.optim.Optimizer, group: dict[str, Any]
) -> tuple[list[Tensor], Callable[[], object]] | None:
    """Counters of the steps of a group's parameters, and what changes these; None where AdamW does more than that."""
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    states = [optimizer.state[parameter] for parameter in parameters]
    numbers = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
    does_more = (
        not group["fused"]
        or group["amsgrad"]
        or group["differentiable"]
        or any(isinstance(number, Tensor) for number in numbers)
        or not all(states)  # it makes them at its first step
        or len({(parameter.device, parameter.dtype) for parameter in parameters}) != 1
    )
    if does_more:
        return None
    steps = [state["step"] for state in states]
    change = partial(
        torch._fused_adamw_,
        parameters,
        [parameter.grad for parameter in parameters],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
    return steps, change
