"""Whether each sample was cut short, or scored: booleans that come from the user's code."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import TypeIs

from grpo.data._checks import irregularity
from grpo.data._protocols import type_name
from grpo.data.experience import Experience
from grpo.data.segments import Segments


def is_mask(values: object, segments: Segments) -> bool:
    """Whether these are K booleans on the segments' device."""
    return (
        is_dense(values)
        and values.dtype == torch.bool
        and values.shape == (segments.count,)
        and values.device == segments.device
    )


def is_dense(values: object) -> TypeIs[Tensor]:
    """Whether it is a tensor that has an entry at every place."""
    if not isinstance(values, Tensor):
        return False
    return not values.is_nested and values.layout is torch.strided and not values.is_meta


def describe(values: object) -> str:
    """What a value is, to name in an error."""
    if not isinstance(values, Tensor):
        return f"of type {type_name(values)}"
    kind = irregularity(values)
    if kind is not None:
        return f"of a {kind} tensor"
    return f"of dtype {values.dtype} and shape {list(values.shape)} on {values.device}"


def check_truncated(batch: object, samples: Segments, source: str) -> None:
    """Where a batch tells which samples were cut short, it must tell of each; ``source`` made the batch."""
    truncated = getattr(batch, "truncated", None)
    if truncated is not None and not is_mask(truncated, samples):
        raise ValueError(
            f"{source} returned a batch with truncated {describe(truncated)}, expected a bool tensor of shape "
            f"[{len(samples)}] on {samples.device}: whether each sample was cut short"
        )


def require_truncated(experience: Experience) -> Tensor:
    """Whether each sample was cut short, bool of shape [N], which the batch must tell."""
    if experience.truncated is None:
        raise ValueError(
            f"mask_truncated needs to know which samples were cut short, but {type_name(experience.batch)} does not "
            f"tell: give the batches of encode_actions an attribute truncated, as grpo.HasTruncations documents"
        )
    return experience.truncated
