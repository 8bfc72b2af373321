"""Whether all processes train the same policy in the same way."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from grpo.config.update import UpdateConfig
from grpo.data._generators import generators_of, seed_generator, seed_of
from grpo.data._part_state import modules_in
from grpo.data._protocols import type_name
from grpo.data._settings import settings_of, settings_of_all
from grpo.data.state import require_whole_state
from grpo.distributed.parts import is_sharded
from grpo.distributed.world import ALONE, World
from grpo.training._optimization import level_of_caller

CHUNK = 2**22  # entries


def check_world(world: object) -> World:
    """The world that is given, that of one process for None."""
    if world is None:
        return ALONE
    if not isinstance(world, World):
        raise TypeError(f"world is {world!r}, expected a grpo.World, such as grpo.World.from_environment()")
    return world


def check_is_not_averaged(policy: object) -> None:
    """Refuse a policy that averages gradients over processes by itself.

    Raises:
        TypeError: if a module of the policy is, or holds, a ``DistributedDataParallel``.
    """
    modules = [module for part in modules_in(policy).values() for module in part.modules()]
    if any(isinstance(module, DistributedDataParallel) for module in modules):
        raise TypeError(
            f"policy {type_name(policy)} holds a DistributedDataParallel, which averages gradients over processes as "
            f"if their shares were equal, and waits for ever where one has none: give it the module inside, "
            f"model.module, and the trainer world=grpo.World.from_environment(), which sums them"
        )


def check_is_told_of_others(world: object) -> None:
    """Warn where a trainer does not know of other processes.

    Warns:
        UserWarning: if this process is one of several, and the trainer was given no world.
    """
    is_initialized = distributed.is_available() and distributed.is_initialized()
    size = distributed.get_world_size() if is_initialized else int(os.environ.get("WORLD_SIZE") or 1)
    if world is None and size > 1:
        warnings.warn(
            f"this process is one of {size}, but the trainer was given no world, and trains by itself: pass "
            f"world=grpo.World.from_environment() to train together, or world=grpo.World() if that is meant",
            stacklevel=level_of_caller(),
        )


def check_same_settings(config: UpdateConfig, trainer: object, world: World) -> None:
    """Raise a ValueError on all processes where trainers, their configs or worlds differ."""
    settings = settings_of("config", config)
    del settings["config.device"]  # each process has a GPU of its own
    _require_same({"trainer": type_name(trainer), "compare_every": str(world.compare_every), **settings}, world)


def check_parts(parts: Mapping[str, object], world: World) -> None:
    """What a trainer was given must keep its state, if it has any, and be alike on all processes.

    Raises:
        TypeError: if a part tells its state, but does not take it back, or the other way round.
        ValueError: on all processes, if parts are of other kinds there, or have other settings.
    """
    for role, part in parts.items():
        require_whole_state(part, role)
    _require_same(settings_of_all(parts), world)


def check_same_optimizer(optimizer: torch.optim.Optimizer | None, world: World) -> None:
    """Raise a ValueError on all processes where optimizers are of other kinds, or have other settings."""
    groups = [] if optimizer is None else optimizer.param_groups
    settings = [{**group, "params": f"{len(group['params'])} tensors"} for group in groups]
    _require_same({"optimizer": " ".join(map(str, [type_name(optimizer), *settings]))}, world)


def _require_same(settings: Mapping[str, str], world: World) -> None:
    if world.is_alone:
        return
    told = world.gather(dict(settings))
    for name in dict.fromkeys(name for each in told for name in each):
        for rank, others in enumerate(told):
            if others.get(name) != told[0].get(name):
                raise ValueError(
                    f"the processes train in different ways: {name} is {told[0].get(name, 'missing')} on rank 0 and "
                    f"{others.get(name, 'missing')} on rank {rank}: construct the same trainer on all of them"
                )


def check_same_tensors(tensors: Mapping[str, Tensor], what: str, world: World, otherwise: str) -> None:
    """Raise a ValueError on all processes where tensors differ in name, form or value; parts are compared by form."""
    if world.is_alone:
        return
    own = [(name, _form(tensor), _checksum(tensor)) for name, tensor in tensors.items()]
    told = world.gather(own)
    for rank, others in enumerate(told):
        if others != told[0]:
            differing = [
                name if form == its_form else f"{name} ({form} and {its_form})"
                for (name, form, checksum), (its_name, its_form, its_checksum) in zip(told[0], others, strict=False)
                if (name, form, checksum) != (its_name, its_form, its_checksum)
            ]
            names = ", ".join(differing[:3]) if differing else f"number: {len(told[0])} and {len(others)}"
            raise ValueError(f"{what} differ between rank 0 and rank {rank} in {names}{otherwise}")


def _form(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype} {list(tensor.shape)}, {'trained' if tensor.requires_grad else 'not trained'}"


def sample_apart(models: Iterable[object], world: World) -> None:
    """Let the random numbers of the models, and of the global generators, differ from those of other processes."""
    if world.rank == 0:
        return
    for model in models:
        for generator in generators_of(model):
            seed_generator(generator, world.own_seed(seed_of(generator)))
    torch.manual_seed(world.own_seed(torch.initial_seed()))
    random.seed(world.own_seed(random.getrandbits(63)))
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        numpy.random.seed(world.own_seed(int(numpy.random.randint(2**31))) % 2**32)


@torch.no_grad()
def _checksum(tensor: Tensor) -> list[int]:
    """Of the bits of a tensor: their sum, and one in which places count."""
    if is_sharded(tensor) or tensor.numel() == 0:
        return []
    sums = torch.zeros(2, dtype=torch.int64, device=tensor.device)
    for chunk in tensor.detach().reshape(-1).split(CHUNK):
        bits = chunk.contiguous().view(torch.uint8).view(len(chunk), -1).to(torch.int64)
        places = torch.arange(1, len(chunk) + 1, device=tensor.device)
        weights = 257 ** torch.arange(bits.shape[1], device=tensor.device)
        words = (bits * weights).sum(1)
        sums += torch.stack((words.sum(), (words * places).sum()))
    checksum: list[int] = sums.tolist()
    return checksum
