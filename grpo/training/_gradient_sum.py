"""Gradients added up over processes, while the backward pass still makes others."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from grpo.distributed.parts import is_sharded
from grpo.distributed.world import PendingSum, World

BUCKET = 25 * 2**20  # bytes


class GradientSum:
    """Sums gradients over processes in buckets, the last parameters' first, since their gradients are made first.

    Parameters that lie in parts on several processes sum theirs themselves.

    Args:
        tensors: all that an optimizer holds.
        world: the processes.
    """

    def __init__(self, tensors: Sequence[Tensor], world: World) -> None:
        self._world = world
        self._given = list(tensors)
        self._tensors = [tensor for tensor in tensors if not is_sharded(tensor)]
        self._buckets = _in_buckets(self._tensors)
        self._bucket_of = {id(tensor): bucket for bucket, tensors in enumerate(self._buckets) for tensor in tensors}
        self._missing: list[int] = []
        self._begun: list[tuple[PendingSum, Tensor]] = []
        if len(self._buckets) > 1:
            for tensor in self._tensors:
                tensor.register_post_accumulate_grad_hook(self._note)

    @staticmethod
    def is_own(hook: object) -> bool:
        """Whether a hook of a tensor is one of these sums', which need not be called: then buckets begin in the end."""
        return isinstance(getattr(hook, "__self__", None), GradientSum)

    def is_for(self, tensors: Sequence[Tensor]) -> bool:
        """Whether it sums the gradients of these tensors."""
        return len(tensors) == len(self._given) and all(map(operator.is_, tensors, self._given))

    def clear(self) -> None:
        """Forget what an optimiser step that failed has begun."""
        self._begun = []

    @contextmanager
    def during(self, is_last: bool) -> Iterator[None]:
        """A backward pass; in the last one of an optimiser step each bucket is summed as soon as it is complete."""
        self._missing = [len(tensors) for tensors in self._buckets] if is_last else []
        try:
            yield
        finally:
            self._missing = []

    def finish(self, told: Tensor) -> Tensor:
        """Leave the sums in ``grad`` of each tensor; what is told besides, [M], is summed as well."""
        present = torch.tensor([tensor.grad is not None for tensor in self._tensors], dtype=torch.float64)
        small = torch.cat((present, told.detach().to("cpu", torch.float64)))
        flats, sums = self._sum_at_once(small) if self._is_one_operation else self._sum_in_buckets(small)
        has_gradient = dict(zip(map(id, self._tensors), (sums > 0).tolist(), strict=False))
        for flat, tensors in zip(flats, self._buckets, strict=True):
            for tensor, gradient in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.grad = _placed_like(tensor, gradient) if has_gradient[id(tensor)] else None
        return sums[len(self._tensors) :]

    @property
    def _is_one_operation(self) -> bool:
        """Whether a small model's gradients go together with what is told besides, which is no more precise."""
        return len(self._buckets) == 1 and self._buckets[0][0].device.type == "cpu"

    @torch.no_grad()
    def _sum_at_once(self, small: Tensor) -> tuple[list[Tensor], Tensor]:
        parts = self._gradients(0)
        flat = torch.cat([*parts, small.to(parts[0].dtype)])
        sums = self._world.begin_sum(flat).wait().split([len(flat) - len(small), len(small)])
        return [sums[0]], sums[1].double()

    def _sum_in_buckets(self, small: Tensor) -> tuple[list[Tensor], Tensor]:
        while len(self._begun) < len(self._buckets):
            self._begin(len(self._begun))
        begun, self._begun = self._begun, []
        pending_small = self._world.begin_sum(small)
        for pending, _ in begun:
            pending.wait()
        return [flat for _, flat in begun], pending_small.wait()

    def _note(self, tensor: Tensor) -> None:
        """A gradient is complete; buckets begin in their order, the same on all processes."""
        if not self._missing:
            return
        self._missing[self._bucket_of[id(tensor)]] -= 1
        while len(self._begun) < len(self._buckets) and self._missing[len(self._begun)] == 0:
            self._begin(len(self._begun))

    @torch.no_grad()
    def _begin(self, bucket: int) -> None:
        flat = torch.cat(self._gradients(bucket))
        self._begun.append((self._world.begin_sum(flat), flat))

    def _gradients(self, bucket: int) -> list[Tensor]:
        parts = [torch.zeros_like(t) if t.grad is None else t.grad for t in self._buckets[bucket]]
        return [part.reshape(-1).to(_width(part.dtype)) for part in parts]


@torch.no_grad()
def _placed_like(tensor: Tensor, gradient: Tensor) -> Tensor:
    """A flat gradient in shape, precision and order in memory as its tensor, since fused optimizers go by memory."""
    shaped = gradient.view(tensor.shape).to(tensor.dtype)
    return shaped if tensor.is_contiguous() else torch.empty_like(tensor).copy_(shaped)


def _width(dtype: torch.dtype) -> torch.dtype:
    """What gradients are summed in: no less than single precision."""
    return torch.promote_types(dtype, torch.float32)


def _in_buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one device and precision together, up to the size of a bucket, from the last to the first."""
    buckets: list[list[Tensor]] = []
    kind_before, size = None, 0
    for tensor in reversed(tensors):
        kind = (tensor.device, _width(tensor.dtype))
        if kind != kind_before or size + tensor.nbytes > BUCKET:
            buckets.append([])
            kind_before, size = kind, 0
        buckets[-1].append(tensor)
        size += tensor.nbytes
    return buckets
