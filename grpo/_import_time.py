"""What keeps ``import grpo`` about as quick as ``import torch``."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection within the block.

    The import of PyTorch ends just short of a full collection, which takes as long as all imports of ours together,
    and which the first few objects that they make would trigger.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
