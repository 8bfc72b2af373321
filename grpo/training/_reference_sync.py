"""A reference policy that follows the policy which is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from grpo.data._part_state import named_buffers
from grpo.distributed.parts import layout_of, local_part


@torch.no_grad()
def mix_parameters(reference_parameters: Mapping[str, Tensor], parameters: Mapping[str, Tensor], mixing: float) -> None:
    """θ_ref ← α θ + (1 - α) θ_ref, in place, by name; integers are copied.

    Args:
        reference_parameters: θ_ref.
        parameters: θ, of the same names and shapes.
        mixing: α in [0, 1].

    References:
        Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656, eq. 4.

    Example:
        >>> reference = {"weight": torch.tensor([0.0, 4.0])}
        >>> mix_parameters(reference, {"weight": torch.tensor([1.0, 2.0])}, 0.5)
        >>> reference["weight"]
        tensor([0.5000, 3.0000])
    """
    for name, reference in {id(tensor): (name, tensor) for name, tensor in reference_parameters.items()}.values():
        own, other = local_part(reference), local_part(parameters[name])
        if own.is_floating_point():
            own.lerp_(other.to(own), mixing)
        else:
            own.copy_(other)


def check_has_own_parameters(
    reference_parameters: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor]
) -> None:
    """A reference policy that is to follow the policy must have parameters of its own, of the same names and shapes."""
    if reference_parameters is None:
        raise ValueError(
            "reference_sync needs a reference policy, but there is none: pass reference_policy=copy.deepcopy(policy)"
        )
    if any(tensor.is_inference() for tensor in reference_parameters.values()):
        raise ValueError(
            "reference_sync changes the reference policy, but its parameters were made in torch.inference_mode and "
            "cannot be changed: make it outside, by copy.deepcopy(policy)"
        )
    ours, theirs = (
        {name: tensor.shape for name, tensor in named.items()} for named in (parameters, reference_parameters)
    )
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        raise ValueError(
            f"reference_sync needs a reference policy with parameters of the policy's names and shapes, but they "
            f"differ in {', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''}: pass copy.deepcopy(policy), "
            f"which has its weights to itself, or leave reference_sync out"
        )
    other = next((name for name in ours if layout_of(parameters[name]) != layout_of(reference_parameters[name])), None)
    if other is not None:
        raise ValueError(
            f"reference_sync needs a reference policy that lies in the same parts on the same processes as the policy, "
            f"but {other} does not: pass policy.reference()"
        )


def buffers_to_follow(reference: object, policy: object) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The buffers that both have and that differ, such as running means: the reference policy's, and the policy's."""
    theirs, ours = named_buffers(reference), named_buffers(policy)
    names = [name for name, buffer in theirs.items() if name in ours and _has_moved(buffer, ours[name])]
    return {name: theirs[name] for name in names}, {name: ours[name] for name in names}


def _has_moved(reference: Tensor, buffer: Tensor) -> bool:
    """Constants have not; to mix those that are infinite, as masks are, would give NaN."""
    own, other = local_part(reference), local_part(buffer)
    return own.shape == other.shape and not torch.equal(own, other.to(own))
