"""Weights that go from GPU to GPU, without a file: for vLLM."""

from __future__ import annotations

import asyncio
import base64
import pickle  # what vLLM reads them with; nothing is unpickled here
import socket
from importlib import import_module
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from grpo_adapters.huggingface.engines.dialect import Dialect
from grpo_adapters.huggingface.engines.errors import EngineWeightsError
from grpo_adapters.huggingface.engines.server import Server
from grpo_adapters.huggingface.engines.vllm_dialect import paused
from grpo_adapters.huggingface.event_loop import in_thread, together
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy


class IPCTransfer:
    """To a vLLM server on the same GPU, which reads the policy's own memory.

    Start it with ``--weight-transfer-config '{"backend": "ipc"}'`` and ``VLLM_ALLOW_INSECURE_SERIALIZATION=1``, where
    nobody else can reach it. Not for adapters.
    """

    async def send(self, server: Server, dialect: Dialect, policy: CausalLMPolicy, version: str) -> None:
        """Tell the server where in the GPU's memory the weights are."""
        weights = _checked_weights(policy)
        if server.is_new:
            await server.post("/init_weight_transfer_engine", {"init_info": {"packed": False}})
        handles = base64.b64encode(pickle.dumps([_handle(weight) for weight in weights.values()])).decode()
        async with paused(server):
            await server.post("/start_weight_update")
            update = _described(weights) | {"ipc_handles_pickled": handles}
            await server.post("/update_weights", {"update_info": update})
            await server.post("/finish_weight_update", {"weight_version": version})


class NCCLTransfer:
    """To vLLM servers on other GPUs, by NCCL. vLLM must be installed beside the policy as well, for its communicator.

    Start them with ``--weight-transfer-config '{"backend": "nccl"}'``. Not for adapters.

    Args:
        address: of this machine, as the servers reach it.
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self._groups: dict[str, Any] = {}

    async def send(self, server: Server, dialect: Dialect, policy: CausalLMPolicy, version: str) -> None:
        """Send the weights one after the other, while the server receives them."""
        weights = _checked_weights(policy)
        try:
            async with asyncio.timeout(server.timeout):
                group = None if server.is_new else self._groups.pop(server.url, None)
                group = group or await self._joined(server, policy.device)
                async with paused(server):
                    await server.post("/start_weight_update")
                    receive = server.post("/update_weights", {"update_info": _described(weights)})
                    await together([receive, in_thread(lambda: _broadcast(group, weights, policy.device))])
                    await server.post("/finish_weight_update", {"weight_version": version})
        except TimeoutError:
            raise EngineWeightsError(
                f"the weights did not get to {server.url} by NCCL within {server.timeout:g} seconds: the two must "
                f"reach each other at {self.address}; start the server again, since it may wait for good"
            ) from None
        self._groups[server.url] = group

    async def _joined(self, server: Server, device: torch.device) -> Any:
        size = 1 + (await server.get("/get_world_size"))["world_size"]
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        meeting = {"master_address": self.address, "master_port": port, "world_size": size}
        told = {"init_info": meeting | {"rank_offset": 1, "packed": False}}
        joining = in_thread(lambda: _join(meeting, device))
        _, group = await together([server.post("/init_weight_transfer_engine", told), joining])
        return group


def _checked_weights(policy: CausalLMPolicy) -> dict[str, Tensor]:
    if isinstance(policy.model, PeftModel):
        raise EngineWeightsError("adapters go over by FolderTransfer only: pass weights=FolderTransfer(...)")
    return {name: weight.detach().contiguous() for name, weight in policy.causal_model.named_parameters()}


def _described(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "names": list(weights),
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
    }


def _handle(weight: Tensor) -> dict[str, Any]:
    """Where a tensor is in the memory of which GPU."""
    _, arguments = reduce_tensor(weight)
    return {str(torch.cuda.get_device_properties(weight.device).uuid): arguments}


def _join(meeting: dict[str, Any], device: torch.device) -> Any:
    """Meet the server's processes, as the first of the group."""
    try:
        trainer_init = import_module("vllm.distributed.weight_transfer.nccl_common").trainer_init
    except ModuleNotFoundError as error:
        raise EngineWeightsError("NCCLTransfer needs vLLM beside the policy: pip install vllm") from error
    with torch.cuda.device(device):
        return trainer_init(meeting)


def _broadcast(group: Any, weights: dict[str, Tensor], device: torch.device) -> None:
    with torch.cuda.device(device):
        for weight in weights.values():
            group.broadcast(weight, src=0, stream=torch.cuda.current_stream())
        torch.cuda.synchronize()
