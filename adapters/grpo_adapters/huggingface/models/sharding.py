"""A language model that is cut into parts, one a process, by PyTorch's FSDP2."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel

from grpo import FrozenModel

NEEDED = ("set_force_sum_reduction_for_comms", "set_reduce_scatter_unused_params", "reset_iter_state")
"""What FSDP2 of this PyTorch must know."""

FITTING = {"cpu": "gloo", "cuda": "nccl"}
"""The backend by which parts on a device are exchanged."""

CHUNK = 2**22  # elements that are looked at together


class FSDP2Config(FrozenModel):
    """How a language model is cut into parts, each of which lies on one process.

    Each layer is gathered before it computes, and given up afterwards. Parameters, gradients and the optimizer's state
    lie in parts; gradients are summed over processes, as a trainer with ``world=`` expects.

    Attributes:
        mesh: the processes, in one dimension (parts), or in two with names (copies, parts of each); None for all
            processes of ``torch.distributed``, which ``World.from_environment()`` makes ready.
        param_dtype: what parameters are gathered and computed in, such as ``torch.bfloat16``, while parts and the
            optimizer's state stay in theirs; None for the latter.
        reduce_dtype: what gradients are summed in; None for the dtype of the parts.
        reshard_after_forward: give a layer up after the forward pass too, and gather it once more for the backward
            pass; otherwise the whole model is there from the one to the other.
        gather_for_sampling: gather the whole model once, in ``param_dtype``, to sample; otherwise layer by layer for
            each token, with all processes in step, for a model that has no room as a whole.

    References:
        Zhao et al. 2023 (FSDP), arXiv:2304.11277.

    Example:
        >>> FSDP2Config(param_dtype=torch.bfloat16).reshard_after_forward
        True
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    mesh: DeviceMesh | None = None
    param_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None
    reshard_after_forward: bool = True
    gather_for_sampling: bool = True


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP2 has cut the model into parts."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def check_can_be_trained(model: object) -> None:
    """Refuse models that sum gradients in a way of their own, and those that are not there.

    Raises:
        TypeError: if a part of the model is wrapped for several processes, by another wrapper than FSDP2.
        ValueError: if a parameter is on the meta device.
    """
    if not isinstance(model, nn.Module):
        return
    for name, module in model.named_modules():
        if isinstance(module, DistributedDataParallel | DataParallel | FullyShardedDataParallel):
            where = f"{type(model).__name__}.{name}" if name else "model"
            raise TypeError(
                f"{where} is wrapped in {type(module).__name__}, which averages gradients or spreads batches by "
                f"itself: pass the model without it (its .module); a trainer with world= sums the gradients of all "
                f"processes itself, and shard=FSDP2Config() cuts the model into parts"
            )
    hollow = next((name for name, tensor in model.named_parameters() if tensor.is_meta), None)
    if hollow is not None:
        raise ValueError(
            f"{hollow} of {type(model).__name__} is on the meta device, where there are no values: load the model's "
            f"weights, by AutoModelForCausalLM.from_pretrained(...), before it becomes a policy"
        )


def shard_model(model: nn.Module, config: FSDP2Config) -> None:
    """Cut a model into parts: those of each of its blocks, and those of all that is left.

    Args:
        model: a causal language model, the same on all processes, its layers with adapters where it has any.
        config: how.

    Raises:
        RuntimeError: if there is no process group, or none that fits the device, or PyTorch is too old.
        ValueError: if weights differ among the processes.
    """
    missing = [name for name in NEEDED if not hasattr(FSDPModule, name)]
    if missing:
        raise RuntimeError(f"FSDP2 of PyTorch {torch.__version__} has no {', '.join(missing)}: install 2.13 or later")
    mesh = _mesh(model, config)
    _check_same_weights(model, mesh)
    cut(model, mesh, config, next(model.parameters()).dtype)


def cut(model: nn.Module, mesh: DeviceMesh, config: FSDP2Config, dtype: torch.dtype) -> None:
    """Cut a model into parts that lie on a mesh, with gradients in a dtype where the config names none."""
    reduce_dtype = config.reduce_dtype or (None if config.param_dtype is None else dtype)
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=config.param_dtype, reduce_dtype=reduce_dtype),
    }
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    for block in [module for module in model.modules() if type(module).__name__ in kinds]:
        fully_shard(block, reshard_after_forward=config.reshard_after_forward, **options)
    fully_shard(model, reshard_after_forward=False, **options)


def _mesh(model: nn.Module, config: FSDP2Config) -> DeviceMesh:
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "shard=FSDP2Config() needs a process group, but there is none: start the script by torchrun, and call "
            "grpo.World.from_environment(), or torch.distributed.init_process_group, before the policy is made"
        )
    backends = dict(pair.split(":") for pair in distributed.get_backend_config().split(",") if ":" in pair)
    here = next(model.parameters()).device.type
    if config.mesh is not None:
        device = config.mesh.device_type
    else:
        device = "cuda" if torch.cuda.is_available() and backends.get("cuda") == "nccl" else here
    if device in FITTING and backends.get(device) != FITTING[device]:
        raise RuntimeError(
            f"parts of a model on {device} are exchanged by {FITTING[device]}, but the process group has "
            f"{distributed.get_backend_config()!r}: call grpo.World.from_environment(), which takes what fits, or "
            f"init_process_group('{'cpu:gloo,cuda:nccl' if device == 'cuda' else 'gloo'}')"
        )
    return config.mesh or init_device_mesh(device, (distributed.get_world_size(),))


@torch.no_grad()
def _check_same_weights(model: nn.Module, mesh: DeviceMesh) -> None:
    """Parts of different models would make another one of them, without a word."""
    named = dict(model.named_parameters())
    sums = torch.stack([_fingerprint(tensor) for tensor in named.values()]).to(mesh.device_type)
    extremes = torch.stack((sums, -sums))
    for dimension in range(mesh.ndim):
        distributed.all_reduce(extremes, distributed.ReduceOp.MAX, group=mesh.get_group(dimension))
    differing = (extremes[0] != -extremes[1]).any(1).nonzero().flatten().tolist()
    if differing:
        names = [list(named)[place] for place in differing[:3]]
        raise ValueError(
            f"{', '.join(names)}{', ...' if len(differing) > 3 else ''} of {type(model).__name__} differ among the "
            f"processes, which are to hold parts of one model: load the same weights on all, or call "
            f"torch.manual_seed with the same seed before they are made"
        )


def _fingerprint(tensor: Tensor) -> Tensor:
    """Two numbers that tell a tensor from others, float64 of shape [2]."""
    total = torch.zeros(2, dtype=torch.float64, device=tensor.device)
    for index, part in enumerate(tensor.detach().flatten().split(CHUNK)):
        values = part.double()
        places = torch.arange(index * CHUNK + 1, index * CHUNK + 1 + len(values), device=values.device)
        total += torch.stack((values.sum(), values @ places.double().sqrt()))
    return torch.nan_to_num(total)
