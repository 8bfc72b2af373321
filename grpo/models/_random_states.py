"""Random generators, put back where what drew from them failed."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch

from grpo.data._generators import generator_state, generators_of, seed_generator, set_generator_state


class RestoresRandomStates:
    """A ``with`` block that puts PyTorch's, Python's, NumPy's and the models' own random generators back if it fails.

    The first three are shared by all threads. While another one is at work they are left alone, since it would draw the
    same numbers twice; daemon threads, which serve notebooks and progress bars, do not count.

    Args:
        models: a model that draws from a generator of its own, PyTorch's or NumPy's, keeps it in an attribute
            ``generator``.

    Attributes:
        generators: those of the models, with their states at the start of the block.
    """

    def __init__(self, models: Sequence[object]) -> None:
        self._models = models

    def __enter__(self) -> None:
        self._states = global_random_states()
        generators = (generator for model in self._models for generator in generators_of(model))
        self.generators = [(generator, generator_state(generator)) for generator in generators]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.restore()

    def restore(self) -> None:
        """Put all of them back to where they were at the start of the block; global ones only where they are ours."""
        self._put_back(takes_global_ones=not others_may_draw())

    def put_back(self) -> None:
        """Put all of them back, whoever else may draw."""
        self._put_back(takes_global_ones=True)

    def _put_back(self, *, takes_global_ones: bool) -> None:
        if takes_global_ones:
            set_global_random_states(self._states)
        for generator, state in self.generators:
            set_generator_state(generator, state)


def others_may_draw() -> bool:
    """Whether another thread than this one, which is no daemon, may be drawing from the global generators."""
    current = threading.current_thread()
    return any(thread is not current and not thread.daemon for thread in threading.enumerate())


def global_random_states() -> dict[str, Any]:
    """The states of the generators that everything shares: PyTorch's on each device, Python's and NumPy's."""
    # NumPy is none of our imports, but a model may draw from its global generator.
    numpy = sys.modules.get("numpy")
    return {
        "python": random.getstate(),
        "numpy": None if numpy is None else numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def set_global_random_states(states: Mapping[str, Any]) -> None:
    """Put back what :func:`global_random_states` took; generators of devices that are not here are left out."""
    random.setstate(states["python"])
    numpy = sys.modules.get("numpy")
    if numpy is not None and states["numpy"] is not None:
        numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def preserved_random_states(models: Sequence[object], seed: int | None = None) -> Iterator[None]:
    """A ``with`` block after which all generators are where they were; in it, they begin with a seed where it is given.

    Other threads do not keep global ones from being put back: left where the seed has them, they would give the same
    numbers after each block, and a pool of threads that is idle is no reason for that.

    Args:
        models: each may keep a generator of its own in an attribute ``generator``.
        seed: for all of them; None to go on from where they are.
    """
    states = RestoresRandomStates(models)
    with states:
        try:
            if seed is not None:
                random.seed(seed)
                if "numpy" in sys.modules:
                    sys.modules["numpy"].random.seed(seed)
                torch.manual_seed(seed)
                for generator, _ in states.generators:
                    seed_generator(generator, seed)
            yield
        finally:
            states.put_back()
