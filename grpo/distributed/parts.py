"""Tensors that lie in parts on several processes, as FSDP2 leaves them."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor


def is_sharded(value: object) -> bool:
    """Whether it is a DTensor of PyTorch's, which nobody has who has not imported them: that takes long."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


@torch.no_grad()
def local_part(tensor: Any) -> Tensor:
    """What this process holds of a tensor, in the same memory; a tensor that it holds as a whole is returned as is."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def whole(tensor: Any) -> Tensor:
    """A tensor put together from its parts on all processes, each of which asks for it."""
    put_together: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return put_together


def layout_of(tensor: Any) -> Any:
    """On which processes a tensor lies, and how it is cut; None for one that this process holds as a whole."""
    return (tensor.device_mesh, tensor.placements) if is_sharded(tensor) else None
