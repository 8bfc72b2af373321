"""Whether weights are the same to the last bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

ON_CPU, ON_OTHERS = 2**16, 2**22
"""Elements that are looked at together: few stay in a cache, many keep an accelerator busy."""
SCATTERING = 0x9E3779B97F4A7C15 - 2**64  # odd, its bits without a pattern: 2^64 over the golden ratio
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A number that is another one as soon as a single bit of a single tensor is.

    Counters of changes, as tensors have them, do not see what is written by way of ``.data``; this reads what is there.

    Args:
        tensors: by name.

    Example:
        >>> weights = torch.zeros(3)
        >>> before = checksum({"weights": weights})
        >>> weights.data[1] = 1e-30
        >>> checksum({"weights": weights}) == before
        False
    """
    sums = [_scattered_sum(tensor.detach()) for tensor in tensors.values()]
    numbers = torch.stack([value.cpu() for value in sums]).tolist() if sums else []
    kinds = [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()]
    return hashlib.blake2b(repr((kinds, numbers)).encode(), digest_size=16).hexdigest()


def _scattered_sum(tensor: Tensor) -> Tensor:
    """Σ w_i x_i modulo 2^64, with x_i the bits of the elements as integers and w_i odd numbers, int64 of shape []."""
    bits = tensor.contiguous().reshape(-1).view(INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    chunk = ON_CPU if bits.device.type == "cpu" else ON_OTHERS
    for start in range(0, len(bits), chunk):
        part = bits[start : start + chunk].long()
        places = torch.arange(start, start + len(part), device=tensor.device)
        total += (part * ((places * SCATTERING) | 1)).sum()
    return total
