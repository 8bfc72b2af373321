"""What a process holds of a GPT-2 with 124M parameters, whole and in parts on two processes.

Two steps of GRPO with 8 completions of 16 tokens on each process, in float32 with AdamW, over gloo. Of parameters,
gradients and the optimizer's state are counted the bytes of all tensors that a process holds: after a step, before its
gradients are dropped; and the most in the course of it, looked at whenever a gradient is made or a layer begins to
compute, with layers that are gathered for that and gradients that are not summed yet. Besides, the largest resident set
of the process (``ru_maxrss``) without what it had when everything was imported: that has activations, buffers and what
is on its way too. The C library is told to give large blocks back at once (``MALLOC_MMAP_THRESHOLD_``), else it keeps
those of gathered layers. The last line is JSON.

    python sharded_memory.py              one process with the whole model, and two with a part each, in several ways
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import torch
from language_work import Work, build_model, build_prompts, build_tokenizer, peak_mib
from our_step import VowelReward
from torch.distributed.fsdp import FSDPModule

from grpo import GRPOConfig, GRPOTrainer, World
from grpo_adapters.huggingface import CausalLMPolicy, FSDP2Config, SamplingConfig

WORK = Work(size="gpt2")
NUM_ROWS = 8
MIB = 2**20
CASES: dict[str, tuple[int, int, dict[str, Any] | None]] = {
    "whole, one process": (1, NUM_ROWS, None),
    "parts, two processes": (2, NUM_ROWS, {}),
    "parts, two processes, sampling layer by layer": (2, NUM_ROWS, {"gather_for_sampling": False}),
    "parts, two processes, two micro-batches": (2, NUM_ROWS // 2, {}),
}


class Held:
    """Counts what a process holds, again and again after the first step."""

    def __init__(self, policy: CausalLMPolicy, optimizer: torch.optim.Optimizer) -> None:
        self.parameters = list(policy.get_parameters().values())
        self.optimizer = optimizer
        modules = [module for module in policy.model.modules() if isinstance(module, FSDPModule)]
        groups = [group for module in modules for group in module._get_fsdp_state()._fsdp_param_groups]
        self.parts = [part for group in groups for part in group.fsdp_params]
        self.most = 0
        wholes = [part.unsharded_param for part in self.parts] or self.parameters
        for tensor in wholes:
            tensor.register_post_accumulate_grad_hook(self.look)
        for module in [*policy.causal_model.transformer.h, policy.causal_model]:
            module.register_forward_pre_hook(self.look)

    def look(self, *_: Any) -> None:
        """Remember the most."""
        self.most = max(self.most, self.now())

    def now(self) -> int:
        """Bytes of parameters, gradients and optimizer state."""
        states = [value for state in list(self.optimizer.state.values()) for value in list(state.values())]
        tensors = [*self.parameters, *(own.grad for own in self.parameters), *states]
        for part in self.parts:
            whole = getattr(part, "_unsharded_param", None)
            tensors += [*part.all_gather_outputs, part.unsharded_accumulated_grad]
            tensors += [] if whole is None else [whole.grad]
        local = [own._local_tensor if hasattr(own, "_local_tensor") else own for own in tensors if own is not None]
        storages = [own.untyped_storage() for own in local]  # which gradients of a layer share
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def work(name: str) -> dict[str, float]:
    """What one process of a case holds, MiB."""
    _, rows, settings = CASES[name]
    torch.set_num_threads(1)
    world = World.from_environment()
    before = peak_mib()
    model = build_model(WORK)
    policy = CausalLMPolicy(
        model,
        build_tokenizer(WORK),
        sampling=SamplingConfig(max_new_tokens=16),
        shard=None if settings is None else FSDP2Config(**settings),
    )
    del model
    config = GRPOConfig(group_size=4, micro_batch_size=rows, undo_failed_updates=False)
    trainer = GRPOTrainer(config, policy, VowelReward(), world=world)
    assert trainer.optimizer is not None
    prompts = world.share(build_prompts(WORK, 2 * world.size))
    trainer.step(prompts)
    held = Held(policy, trainer.optimizer)
    trainer.step(prompts)
    return {"after a step": held.now() / MIB, "most in a step": held.most / MIB, "resident": peak_mib() - before}


def measured(name: str) -> dict[str, float]:
    """The largest figures of the processes of a case."""
    size = CASES[name][0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, name],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            | {"MALLOC_MMAP_THRESHOLD_": "262144"},
        )
        for rank in range(size)
    ]
    told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return {kind: max(each[kind] for each in told) for kind in told[0]}


def main() -> None:
    """All cases, one after the other."""
    results = {}
    for name in CASES:
        results[name] = measured(name)
        whole = results["whole, one process"]
        print(
            name, *(f"{kind} {mib:,.0f} MiB ({mib / whole[kind]:.2f})" for kind, mib in results[name].items()), sep=", "
        )
    print(json.dumps(results))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(work(sys.argv[1])))
    else:
        main()
