"""Tensors that lie in parts on several processes, as FSDP2 leaves them.

They are known by their methods, since the module of their class takes long to import.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; a tensor that it holds as a whole is returned as is."""
    to_local = getattr(tensor, "to_local", None)
    if to_local is None:
        return tensor
    local: Tensor = to_local()
    return local


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from its parts on all processes, each of which asks for it."""
    full_tensor = getattr(tensor, "full_tensor", None)
    if full_tensor is None:
        return tensor
    put_together: Tensor = full_tensor()
    return put_together


def layout_of(tensor: Tensor) -> Any:
    """On which processes a tensor lies, and how it is cut; None for one that this process holds as a whole."""
    mesh = getattr(tensor, "device_mesh", None)
    return None if mesh is None else (mesh, getattr(tensor, "placements", None))
