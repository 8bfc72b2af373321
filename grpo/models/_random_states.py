"""Random generators, put back where what drew from them failed."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Sequence
from types import TracebackType

import torch


class RestoresRandomStates:
    """A ``with`` block that puts PyTorch's, Python's, NumPy's and the models' own random generators back if it fails.

    The first three are shared by all threads. While another one is at work they are left alone, since it would draw the
    same numbers twice; daemon threads, which serve notebooks and progress bars, do not count.

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
        generators = (getattr(model, "generator", None) for model in self._models)
        self._generators = [
            (generator, generator.get_state()) for generator in generators if isinstance(generator, torch.Generator)
        ]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.restore()

    def restore(self) -> None:
        """Put all of them back to where they were at the start of the block; global ones only where they are ours."""
        if not others_may_draw():
            random.setstate(self._python)
            if self._numpy is not None:
                self._numpy.random.set_state(self._numpy_state)
            torch.set_rng_state(self._cpu)
            if self._cuda is not None:
                torch.cuda.set_rng_state_all(self._cuda)
        for generator, state in self._generators:
            generator.set_state(state)


def others_may_draw() -> bool:
    """Whether another thread than this one, which is no daemon, may be drawing from the global generators."""
    current = threading.current_thread()
    return any(thread is not current and not thread.daemon for thread in threading.enumerate())
