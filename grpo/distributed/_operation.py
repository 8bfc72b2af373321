"""An operation that all processes take part in."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

SLOT = 512
"""Bytes of a tensor that goes in a message of one length for all, beside a label that says what it is for."""
LABEL = 160
"""Bytes of the label."""
SMALL = 2**18
"""Bytes up to which a tensor goes to all others whole: gloo's reduction costs several messages more."""

Kind = Literal["SUM", "MAX", "gather"]


@dataclass
class Operation:
    """One that this process has begun."""

    index: int
    kind: Kind
    tensor: Tensor
    place: str
    work: Any = None
    gathered: list[Tensor] = field(default_factory=list)
    labels: list[bytes] = field(default_factory=list)

    @property
    def is_labelled(self) -> bool:
        """Whether it is told to the others what the tensor is for."""
        return self.tensor.nbytes <= SLOT

    @property
    def message(self) -> Tensor:
        """What the others are sent."""
        if not self.is_labelled:
            return self.tensor
        label = f"{self.kind} {self.tensor.numel()} {self._dtype} {self.place}".encode()[:LABEL].ljust(LABEL)
        content = ctypes.string_at(self.tensor.data_ptr(), self.tensor.nbytes)
        return torch.frombuffer(bytearray((label + content).ljust(LABEL + SLOT, b"\0")), dtype=torch.uint8)

    def open(self) -> None:
        """Take the labels from the messages that have come."""
        if self.is_labelled:
            self.labels = [ctypes.string_at(message.data_ptr(), LABEL) for message in self.gathered]
            end = LABEL + self.tensor.nbytes
            self.gathered = [message[LABEL:end].view(self.tensor.dtype) for message in self.gathered]

    def end(self) -> None:
        """Reduce what was gathered, in the order of ranks, so that all have the same to the last bit."""
        if self.kind == "gather" or not self.gathered:
            return
        first, *others = self.gathered
        for other in others:
            if self.kind == "SUM":
                first.add_(other)
            else:
                torch.maximum(first, other, out=first)
        self.tensor.copy_(first.view_as(self.tensor))

    @property
    def form(self) -> list[Any]:
        """What another process must know to take part."""
        return [self.kind, self.tensor.numel(), self._dtype, self.place]

    @property
    def _dtype(self) -> str:
        return str(self.tensor.dtype).removeprefix("torch.")


def place_of_caller() -> str:
    """Who asks the world: a module of the core, or nothing where another one does, and its function."""
    frame = sys._getframe(2)
    while frame.f_back is not None and _module_of(frame).startswith(("grpo.distributed.", "contextlib")):
        frame = frame.f_back
    module = _module_of(frame)
    return f"{module if module.startswith('grpo.') else ''} {frame.f_code.co_qualname}"


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def what_of(label: str) -> str:
    """What a label says without the function, which may be another where each process has its own way to one sum."""
    return label.rpartition(" ")[0]


def described(label: str) -> str:
    """What a process is at, in words."""
    kind, numel, dtype, module, function = label.split(" ", 4)
    numbers = f" of {numel} {dtype} numbers"
    operation = {"SUM": f"a sum{numbers}", "MAX": f"a maximum{numbers}", "gather": "an exchange"}[kind]
    return f"{operation} in {f'{module}.' if module else ''}{function}"
