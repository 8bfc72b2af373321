"""The weights that the state of a language model's policy consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from grpo_adapters.checksums import checksum

STATE_NAMES = {"weights", "generator", "completion_lengths"}
WHEREABOUTS = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"}
"""What the config of an adapter tells besides what it computes."""
NUMBERS_LOOKED_AT = 64
"""At most, of a tensor, to tell it from another one."""


def adapter_settings(model: Any) -> dict[str, Any]:
    """The configs of a model's adapters, each setting by its name, and what they adapt; none of a model without."""
    if not isinstance(model, PeftModel):
        return {}
    configs = {
        f"adapters.{adapter}.{name}": value
        for adapter, config in model.peft_config.items()
        for name, value in vars(config).items()
        if name not in WHEREABOUTS and not name.startswith("_")
    }
    return configs | {"adapters.base_weights": _checksum_of_base(model)}


def _checksum_of_base(model: PeftModel) -> str | None:
    """Of some numbers of each parameter under the adapters; None where some lie elsewhere, as sharded ones do."""
    changing = changing_weights(model)
    base = {name: value.detach() for name, value in model.named_parameters() if name not in changing}
    if any(isinstance(value, DTensor) or value.is_meta for value in base.values()):
        return None
    return checksum(
        {name: value.reshape(-1)[:: value.numel() // NUMBERS_LOOKED_AT + 1] for name, value in base.items()}
    )


def changing_weights(model: Any) -> dict[str, Tensor]:
    """Tensors of a model that its training changes: those of its adapters, where it has any, else all that it saves.

    Of a tensor with several names, such as an embedding tied to the head, only the first is told.
    """
    tensors = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    if isinstance(model, PeftModel):
        prefix = model.base_model.prefix
        tensors = {name: value for name, value in tensors.items() if value.requires_grad or prefix in name}
    first = {id(value): name for name, value in reversed(tensors.items())}
    return {name: value for name, value in tensors.items() if first[id(value)] == name}


def check_policy_state(
    state_dict: Any, weights: Mapping[str, Tensor], generator: torch.Generator, owner: object
) -> None:
    """Raise a ValueError unless a state is one of a policy with such weights and such a generator."""
    where = f"{type(owner).__name__}.load_state_dict"
    if not isinstance(state_dict, Mapping) or state_dict.keys() != STATE_NAMES:
        came = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
        raise ValueError(f"{where} was given {came}, expected {sorted(STATE_NAMES)}: pass what state_dict() returned")
    ours, theirs = ({name: _kind(value) for name, value in own.items()} for own in (weights, state_dict["weights"]))
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        name, more = differing[0], ", ..." if len(differing) > 3 else ""
        raise ValueError(
            f"{where} was given weights that differ in {', '.join(differing[:3])}{more}: {name} is "
            f"{theirs.get(name, 'missing')}, expected {ours.get(name, 'none of that name')}; construct the "
            f"policy in the same way, with the same model and adapters"
        )
    _refuse_other_parts(weights, state_dict["weights"], where)
    size = len(generator.get_state())
    if len(state_dict["generator"]) != size:
        raise ValueError(
            f"{where} was given the state of a generator of {len(state_dict['generator'])} bytes, expected {size}, as "
            f"generators on {generator.device.type} have: load it into a policy on the same kind of device"
        )


def laid_out_as(tensor: Tensor, value: Tensor) -> Tensor:
    """A value as a tensor takes it in: cut into parts where the tensor lies in parts and the value is whole."""
    if not isinstance(tensor, DTensor) or isinstance(value, DTensor):
        return value
    whole = value.to(tensor.device)
    return distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)


def _refuse_other_parts(weights: Mapping[str, Tensor], came: Mapping[str, Any], where: str) -> None:
    """Parts that another process, or none, would hold are not this one's."""
    for name, tensor in weights.items():
        own, other = (
            (value.device_mesh, value.placements) if isinstance(value, DTensor) else None
            for value in (tensor, came[name])
        )
        if other is not None and other != own:
            raise ValueError(
                f"{where} was given {name} in parts on {other[0].size()} processes, expected "
                f"{'the whole tensor' if own is None else f'parts on {own[0].size()}'}: read the checkpoint by "
                f"torch.distributed.checkpoint into the state_dict() of this policy, which cuts it anew"
            )


def _kind(value: Any) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
