"""A device that is none: tensors in main memory that say they are elsewhere, and refuse to be mixed with others.

What a GPU would refuse, an operation on tensors of two devices, is refused here too, and what would make the CPU wait
for a GPU is counted. So mistakes with devices show where there is no GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

PRETENDED = torch.device("lazy", 0)  # backward passes of this one run in the thread that asks for them
aten = torch.ops.aten
MOVES = {aten._to_copy, aten.copy_, aten._copy_from}
TAKES_CPU_INDICES = {aten.index, aten.index_put_, aten.index_put, aten._index_put_impl_}
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten.unique_consecutive, aten._unique2}


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == PRETENDED.type


class PretendedTensor(torch.Tensor):
    """A tensor in main memory that says it is on ``PRETENDED``."""

    held: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        made: PretendedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=PRETENDED,
        )
        made.held = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"pretended {self.held!r}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} outside of pretended_device()")


class _Functions(TorchFunctionMode):
    """What Python's side of a tensor does without dispatching."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            goes_there = any(isinstance(each, PretendedTensor) for each in args) or _is_there(kwargs.get("device"))
            if _is_there(generator.device) != goes_there:
                raise RuntimeError(f"{func} with a generator on {generator.device} for tensors elsewhere")
        if func is torch.tensor and _is_there(kwargs.get("device")):
            return torch.tensor(*args, **{**kwargs, "device": "cpu"}).to(PRETENDED)
        own = args[0] if args and isinstance(args[0], PretendedTensor) else None
        if own is not None and func is Tensor.tolist:
            self.waits["tolist"] += 1
            return own.held.tolist()
        if own is not None and func is Tensor.data_ptr:
            return own.held.data_ptr()
        if own is not None and func is Tensor.__deepcopy__:
            return PretendedTensor(own.held.detach().clone()).requires_grad_(own.requires_grad)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Computes on what the tensors hold, refuses mixtures, counts what waits."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        pretended = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
        goes_there = _is_there(kwargs.get("device"))
        self._check(packet, args, tensors, pretended)
        if packet in WAITS and pretended:
            self.waits[packet.__name__] += 1
        if (
            packet in TAKES_CPU_INDICES
            and pretended
            and any(own.dtype == torch.bool for own in tree_leaves(args[1]) if isinstance(own, Tensor))
        ):
            self.waits["boolean index"] += 1
        if packet in MOVES:
            goes_there = self._moves_there(packet, args, kwargs, goes_there)
        elif pretended and kwargs.get("device") is None:
            goes_there = True
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner_kwargs = tree_map_only(PretendedTensor, lambda own: own.held, (args, kwargs))
        result = func(*inner_args, **inner_kwargs)
        if not goes_there:
            return args[0] if packet is aten.copy_ else result
        wrapped = tree_map_only(Tensor, PretendedTensor, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _check(self, packet: Any, args: Any, tensors: list[Tensor], pretended: list[PretendedTensor]) -> None:
        others = [own for own in tensors if not isinstance(own, PretendedTensor) and own.dim() > 0]
        if not pretended or not others or packet in MOVES:
            return
        if packet in TAKES_CPU_INDICES and isinstance(args[0], PretendedTensor):
            others = [own for own in others if not any(own is index for index in args[1])]
        if others:
            raise RuntimeError(f"{packet} of tensors on {PRETENDED} and on the CPU")

    def _moves_there(self, packet: Any, args: Any, kwargs: dict[str, Any], goes_there: bool) -> bool:
        if packet is aten._to_copy:
            was_there = isinstance(args[0], PretendedTensor)
            goes_there = goes_there if kwargs.get("device") is not None else was_there
        else:
            goes_there, was_there = (isinstance(own, PretendedTensor) for own in args[:2])
        if goes_there != was_there and args[0].numel() > 0:
            self.waits["copy"] += 1
        return goes_there


class _Generator(torch.Generator):
    """A generator that draws in main memory and says where it was made for."""

    is_there: bool

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.is_there = _is_there(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return PRETENDED if self.is_there else torch.device("cpu")


class _Autocast(torch.autocast):
    """Which knows no device of this kind."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == PRETENDED.type else device_type, *args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[Counter[str]]:
    """Within it, tensors can be moved to ``PRETENDED``; yields how often the CPU would have waited, by reason."""
    waits: Counter[str] = Counter()
    is_enabled = torch.is_autocast_enabled
    with (
        mock.patch.object(torch, "Generator", _Generator),
        mock.patch.object(torch, "autocast", _Autocast),
        mock.patch.object(torch, "is_autocast_enabled", lambda kind: kind != PRETENDED.type and is_enabled(kind)),
        _Functions(waits),
        _Operations(waits),
    ):
        yield waits


def trained(trainer: Any, policy: Any, states: Any, num_steps: int = 2) -> dict[str, float]:
    """The metrics of the last of some steps, after which parameters are on the device and have moved."""
    before = {name: value.detach().clone() for name, value in policy.get_parameters().items()}
    for _ in range(num_steps):
        metrics: dict[str, float] = trainer.step(states)
    state = trainer.state_dict()
    trainer.load_state_dict(state)
    parameters = policy.get_parameters()
    assert {value.device for value in parameters.values()} == {PRETENDED}
    assert any((value != before[name]).any().item() for name, value in parameters.items())
    return metrics
