"""What a failed step puts back."""

from __future__ import annotations

import operator
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from grpo.data._part_state import modules_in
from grpo.data.state import load_states_of, states_of
from grpo.distributed.world import World
from grpo.models._random_states import RestoresRandomStates
from grpo.training._optimization import Optimization

SMALL = 2**26  # bytes; up to here copies are always made


class Copies:
    """Copies of tensors that are about to be changed, in memory that is used again where it is the same tensors."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def take(self, tensors: list[Tensor]) -> None:
        """Copy the tensors as they are now."""
        if len(tensors) == len(self._tensors) and all(map(operator.is_, tensors, self._tensors)):
            if tensors:
                torch._foreach_copy_(self._values, tensors)
        else:
            self._tensors, self._values = tensors, [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the tensors the values that they had."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)


class UndoesFailedStep:
    """A ``with`` block after whose failure everything is as it was before.

    Random generators, the policy's buffers, learning rates, and the states of ``parts`` are noted at the start; what
    the updates change when they begin, by :meth:`before_updates`. Of a sampler that goes on from call to call nothing
    is noted: it begins anew.

    Args:
        models: all that may draw random numbers; the first one is the policy.
        optimization: the parameters and the optimizer.
        parts: what changes at the end of a step, such as an objective's coefficient.
        undoes_updates: whether copies are made of what updates change.
        collector: lets its sampler begin anew.
        small_copies: the memory for copies of what updates change, where they are small.
    """

    def __init__(
        self,
        models: list[object],
        optimization: Optimization,
        parts: Sequence[object],
        *,
        undoes_updates: bool,
        collector: Any = None,
        small_copies: Copies,
    ) -> None:
        self._random_states = RestoresRandomStates(models)
        self._policy = models[0]
        self._optimization = optimization
        self._parts = {str(place): part for place, part in enumerate(parts)}
        self._undoes_updates = undoes_updates
        self._collector = collector
        self._small_copies = small_copies
        self._copies: list[Copies] = []
        self._notes_updates = False
        self._held_interrupts = ExitStack()

    def __enter__(self) -> UndoesFailedStep:
        self._random_states.__enter__()
        if self._collector is not None:
            self._collector.begin()
        self._states = states_of(self._parts)
        self._buffers = noted_buffers(self._policy)
        optimizer = self._optimization.optimizer
        groups = optimizer.param_groups if optimizer is not None else []
        self._settings = [
            {
                name: value.detach().clone() if isinstance(value, Tensor) else value
                for name, value in group.items()
                if name != "params"
            }
            for group in groups
        ]
        self._optimizer_state: dict[Any, dict[str, Any]] | None = None
        return self

    def before_updates(self, *, may_fail_later: bool) -> None:
        """Note parameters and optimizer state, where they are small or the step may fail after the first update."""
        optimizer = self._optimization.optimizer
        if optimizer is None or not self._undoes_updates:
            return
        state = {tensor: dict(entries) for tensor, entries in optimizer.state.items()}
        changing = [
            *self._optimization.held,
            *(value for entries in state.values() for value in entries.values() if isinstance(value, Tensor)),
        ]
        self._optimizer_state = state
        is_small = sum(tensor.nbytes for tensor in changing) <= SMALL
        if not is_small and not may_fail_later:
            return
        copies = self._small_copies if is_small else Copies()
        copies.take(changing)
        self._copies.append(copies)
        self._notes_updates = True

    def update(self) -> AbstractContextManager[None]:
        """A block that changes parameters, which Ctrl-C does not leave half done.

        Where that cannot be undone it waits, for the end of the block or, if nothing may fail after it, of the step.
        """
        if self._notes_updates:
            return nullcontext()
        if not self._undoes_updates:
            return uninterrupted()
        self._held_interrupts.enter_context(uninterrupted())
        return nullcontext()

    @torch.no_grad()
    def take_buffers_of_rank_0(self, world: World) -> None:
        """Where the policy has moved its buffers, as batch normalisation does, give all processes those of rank 0."""
        current = [(module._buffers[name], before) for module, name, _, before in self._buffers]
        moved = [float(not torch.equal(buffer, before)) for buffer, before in current if buffer is not None]
        if not moved:
            return
        for (buffer, _), has_moved in zip(current, world.maximum(torch.tensor(moved)).tolist(), strict=True):
            if has_moved and buffer is not None:
                buffer.copy_(world.sum(buffer if world.rank == 0 else torch.zeros_like(buffer)))

    def also(self, tensors: list[Tensor]) -> None:
        """Note tensors that are about to be changed."""
        copies = Copies()
        copies.take(tensors)
        self._copies.append(copies)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._held_interrupts:
            if error is not None:
                try:
                    self._restore()
                    self._restore_parts(error)
                finally:
                    self._random_states.restore()

    def _restore(self) -> None:
        optimizer = self._optimization.optimizer
        if optimizer is not None:
            self._optimization.drop_gradients()
            for group, settings in zip(optimizer.param_groups, self._settings, strict=False):
                group.update(settings)
            if self._optimizer_state is not None:
                optimizer.state.clear()
                optimizer.state.update(self._optimizer_state)
        put_back_buffers(self._buffers)
        for copies in self._copies:
            copies.put_back()

    def _restore_parts(self, error: BaseException) -> None:
        """Call the user's code that puts back; what fails of it is noted on the error that is on its way."""
        abandon = [] if self._collector is None else [self._collector.abandon]
        for put_back in (lambda: load_states_of(self._parts, self._states), *abandon):
            try:
                put_back()
            except Exception as failure:
                error.add_note(f"undoing the step failed too: {type(failure).__name__}: {failure}")


Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]


def noted_buffers(model: object) -> Buffers:
    """The buffers of a model, each with a copy of its value."""
    return [(*held, held[-1].detach().clone()) for held in buffers_of(model)]


@torch.no_grad()
def put_back_buffers(buffers: Buffers) -> None:
    """Give the buffers the values that they were noted with."""
    for module, name, buffer, value in buffers:
        setattr(module, name, buffer.copy_(value))


def buffers_of(model: object) -> list[tuple[nn.Module, str, Tensor]]:
    """The buffers of a module, or of the modules that an object holds, such as running means; each where it is kept."""
    modules = {id(part): part for module in modules_in(model).values() for part in module.modules()}
    return [
        (module, name, buffer)
        for module in modules.values()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, which is not to be left half done."""
    original = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(original):
        yield
        return
    received: list[Any] = []
    signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, original)
    if received:
        original(*received[-1])
