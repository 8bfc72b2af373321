"""A model in parts at work: all processes compute together, equally often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from grpo import World
from grpo_adapters.huggingface.models.sharded_copy import frozen_copy
from grpo_adapters.huggingface.models.sharding import FSDP2Config, is_sharded, shard_model


class ShardedModel:
    """Sees to it that all processes that hold parts of a model make equally many forward passes.

    Whoever computes gathers the parts of all others, so one that made fewer passes would let them wait for ever. Before
    each pass a process says that there is one; who has none left makes one of a single token instead, until all say so.

    Args:
        root: a causal language model that FSDP2 has cut into parts, and which has not computed since.
        named: the same, or the model with adapters around it, which names its parameters.
        config: how it was cut; None where that is not known.

    Attributes:
        parameters: the parts of this process, which are trained, by name; what modules hold while they compute is
            something else.
    """

    def __init__(self, root: Any, named: nn.Module, config: FSDP2Config | None) -> None:
        self.root = root
        self._named = named
        self._config = config
        self.parameters: dict[str, Tensor] = dict(named.named_parameters())
        self._gathers_to_sample = config is None or config.gather_for_sampling
        self._modules: list[Any] = [module for module in root.modules() if isinstance(module, FSDPModule)]
        self._size = max(
            tensor.device_mesh.size() for tensor in self.parameters.values() if isinstance(tensor, DTensor)
        )
        self._world: World | None = None
        self._depth = 0
        self._counts = False
        self._adds_up_later = False
        trained = [
            tensor for tensor in self.parameters.values() if isinstance(tensor, DTensor) and tensor.requires_grad
        ]
        self._marker = min(trained, key=Tensor.numel) if trained else None
        root.set_reshard_after_forward(False, recurse=False)  # the head is used after the pass
        for module in self._modules:
            module.set_gradient_divide_factor(1.0)  # gradients are summed, by the sum that every backend has
            module.set_force_sum_reduction_for_comms(True)

    def join_world(self, world: World) -> None:
        """Know the processes that hold the other parts."""
        if world.size != self._size:
            raise ValueError(
                f"the model lies in parts on {self._size} processes, the trainer's world has {world.size}: give both "
                f"the same processes"
            )
        self._world = world

    def begin(self) -> None:
        """Be ready to train, after passes that only tried the model out, and that all processes made alike."""
        self.root._get_fsdp_state()._lazy_init()  # what the first pass does else
        self.root.reset_iter_state()
        self.root.set_reduce_scatter_unused_params(True)  # experts that no token here was sent to, say
        self.root.register_forward_pre_hook(lambda *_: self._announce(), prepend=True)

    def frozen_copy(self) -> ShardedModel:
        """A model of its own with the same weights, cut in the same way, which is not trained."""
        root = frozen_copy(self.root, self.parameters, self._config)
        shards = ShardedModel(root, root, self._config)
        shards.begin()
        shards._world = self._world
        return shards

    def evaluated(self, compute: Callable[[], Any]) -> Any:
        """What is computed: a frozen dataclass of tensors, which are connected to passes that others needed besides."""
        with self._in_step():
            result = compute()
            others = self._others()
        if not torch.is_grad_enabled():
            return result
        values = {each.name: getattr(result, each.name) for each in fields(result)}
        tensors = {name: value for name, value in values.items() if value is not None}
        connected = _GathersFirst.apply(self.root, others, *tensors.values())  # type: ignore[no-untyped-call]
        return replace(result, **dict(zip(tensors, connected, strict=True)))

    def evaluate_nothing(self) -> Tensor:
        """A scalar 0, of a pass of a single token, and of those that other processes need besides."""
        with self._in_step():
            return self._pass_of_nothing() + self._others()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """A block in which any number of tokens may be sampled, and into which all processes go equally often."""
        if self._depth:  # a block in one
            yield
            return
        self._depth += 1
        try:
            with torch.no_grad(), self._gathered() if self._gathers_to_sample else self._in_step():
                yield
                if not self._gathers_to_sample:
                    self._others()
        finally:
            self._depth -= 1

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Passes before each of which this process says so."""
        self._tidy()
        self._counts = True
        try:
            yield
        except BaseException:
            self.root.reset_iter_state()
            raise
        finally:
            self._counts = False
            if not torch.is_grad_enabled():
                self.root.reset_iter_state()

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        """All parameters here, so that this process computes on its own."""
        self._tidy()
        self._any_left(True)
        before = [group.post_forward_mesh_info for group in self._groups()]
        self.root.set_reshard_after_forward(False)
        try:
            for module in self._modules:
                module.unshard()
            yield
        finally:
            for group, mesh in zip(self._groups(), before, strict=True):
                group.post_forward_mesh_info = mesh
            self.root.reset_iter_state()

    def _others(self) -> Tensor:
        """Make passes of nothing as long as another process makes some; a scalar 0 that depends on them."""
        self._counts = False
        nothing = torch.zeros((), device=self._device)
        while self._any_left(False):
            nothing = nothing + self._pass_of_nothing()
        return nothing

    def _pass_of_nothing(self) -> Tensor:
        tokens = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        nothing: Tensor = self.root(input_ids=tokens, use_cache=False).logits[:0].sum()
        return nothing

    def _announce(self) -> None:
        if self._counts:
            self._any_left(True)

    def _any_left(self, here: bool) -> bool:
        """Whether a process makes a pass now."""
        return here if self._size == 1 else self._joined().any(here)

    def _joined(self) -> World:
        if self._world is None:
            raise RuntimeError(
                f"the model lies in parts on {self._size} processes, which compute together, but it was not told how "
                f"to reach them: give the trainer world=grpo.World.from_environment(), or call "
                f"policy.join_world(world)"
            )
        return self._world

    def write(self, write: Callable[[dict[str, Tensor]], None]) -> None:
        """Let the first process write the whole weights, which all processes give it; all end together.

        Args:
            write: is given tensors on the CPU, by the names of the model's ``state_dict``.
        """
        with nullcontext() if self._size == 1 else self._joined().together():
            first = distributed.get_rank() == 0
            named = self._named.state_dict(keep_vars=True)
            gathered: dict[int, Tensor] = {}  # tied ones once
            for tensor in {id(tensor): tensor for tensor in named.values()}.values():
                whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                if first:
                    gathered[id(tensor)] = whole.detach().cpu()
            if first:
                write({name: gathered[id(tensor)] for name, tensor in named.items()})

    def sum_gradients(self, now: bool) -> None:
        """Whether backward passes sum gradients over processes, or add to those of this one, to be summed later."""
        if self._marker is None:
            return
        if self._marker.grad is None:  # so gradients were dropped, and with them what has not been summed
            for group in self._groups():
                for part in group.fsdp_params:
                    part.unsharded_accumulated_grad = None
                    if hasattr(part, "_unsharded_param"):
                        part.unsharded_param.grad = None
            if not now:
                self._marker.grad = torch.zeros_like(self._marker)
        self.root.set_requires_gradient_sync(now)

    def _tidy(self) -> None:
        """Forget a pass that failed half-way."""
        states = [module._get_fsdp_state() for module in self._modules]
        if any(state._training_state.name != "IDLE" for state in states) or states[0]._state_ctx.iter_forward_root:
            self.root.reset_iter_state()

    def _groups(self) -> Iterator[Any]:
        for module in self._modules:
            yield from module._get_fsdp_state()._fsdp_param_groups

    @property
    def _device(self) -> torch.device:
        return next(iter(self.parameters.values())).device


class _GathersFirst(torch.autograd.Function):
    """Results as they are. Their backward pass begins with what the head needs, and which may be given up by then."""

    @staticmethod
    def forward(ctx: Any, root: Any, others: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
        """The results."""
        ctx.root = root
        ctx.nothing = torch.zeros_like(others)
        ctx.set_materialize_grads(False)
        return tuple(result.view_as(result) for result in results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Their gradients, and none for what other processes needed, which takes part for that alone."""
        ctx.root.unshard()
        return None, ctx.nothing, *gradients


def sharded(root: Any, named: nn.Module, config: FSDP2Config | None) -> ShardedModel | None:
    """A model in parts, which a config asks for, or which it is already; None where it is whole.

    Args:
        root: a causal language model.
        named: the same, or the model with adapters around it.
        config: how it is cut.

    Raises:
        ValueError: if it lies in parts already and there is a config.
    """
    if is_sharded(root):
        if config is not None:
            raise ValueError("the model lies in parts on several processes already: leave out shard")
        if not isinstance(root, FSDPModule):
            raise ValueError(
                f"layers of {type(root).__name__} lie in parts on several processes, but what is left of it does not: "
                f"call fully_shard on the model too, or leave it whole and pass shard=FSDP2Config()"
            )
    elif config is None:
        return None
    else:
        shard_model(root, config)
    return ShardedModel(root, named, config)
