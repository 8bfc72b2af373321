"""What a failed step puts back: random generators, parameters, the optimiser's state."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor


class RestoresRandomStates:
    """A ``with`` block that puts PyTorch's, Python's, NumPy's and the models' own random generators back if it fails.

    Args:
        models: a model that draws from a :class:`torch.Generator` of its own keeps it in an attribute ``generator``.
    """

    def __init__(self, models: Sequence[object]) -> None:
        self._models = models

    def __enter__(self) -> None:
        self._python = random.getstate()
        # NumPy is none of our imports, but a model may draw from its global generator.
        self._numpy = sys.modules.get("numpy")
        self._numpy_state = self._numpy.random.get_state() if self._numpy is not None else None
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        own = (getattr(model, "generator", None) for model in self._models)
        self._own = [(generator, generator.get_state()) for generator in own if isinstance(generator, torch.Generator)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.restore()

    def restore(self) -> None:
        """Put all of them back to where they were at the start of the block."""
        random.setstate(self._python)
        if self._numpy is not None:
            self._numpy.random.set_state(self._numpy_state)
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        for generator, state in self._own:
            generator.set_state(state)


def drop_gradients(optimizer: torch.optim.Optimizer | None, parameters: Iterable[Tensor]) -> None:
    """Forget the gradients of the optimizer's parameters and of these."""
    for group in optimizer.param_groups if optimizer is not None else ():
        for parameter in group["params"]:
            parameter.grad = None
    for parameter in parameters:
        parameter.grad = None


class RestoresTraining:
    """A ``with`` block that puts the parameters and the optimiser's state back if it fails, and drops the gradients.

    Args:
        optimizer: the optimiser, with the parameters it holds; None for nothing to put back.
        parameters: the policy's trainable parameters, held by the optimizer or not.
        copies: whether something may fail after a parameter has changed. Where a single optimiser step is the last act
            of the block nothing has to be copied.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None, parameters: Iterable[Tensor], *, copies: bool) -> None:
        self._optimizer = optimizer
        self._trainable = parameters
        self._copies = optimizer is not None and copies

    def __enter__(self) -> None:
        if self._optimizer is None:
            return
        names = [group.keys() - {"params"} if self._copies else {"lr"} for group in self._optimizer.param_groups]
        self._settings = [
            {name: _copied(group[name]) for name in own}
            for group, own in zip(self._optimizer.param_groups, names, strict=True)
        ]
        if self._copies:
            held = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
            self._parameters: list[tuple[Tensor, Tensor]] = [(parameter, _copied(parameter)) for parameter in held]
            self._state = {
                parameter: {name: _copied(value) for name, value in state.items()}
                for parameter, state in self._optimizer.state.items()
            }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or self._optimizer is None:
            return
        drop_gradients(self._optimizer, self._trainable)
        for group, settings in zip(self._optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        if self._copies:
            with torch.no_grad():
                for parameter, value in self._parameters:
                    parameter.copy_(value)
            self._optimizer.state.clear()
            self._optimizer.state.update(self._state)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
