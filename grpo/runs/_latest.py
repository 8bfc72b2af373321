"""The latest checkpoint that is whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from grpo.distributed.world import ALONE, World
from grpo.runs._sharded import in_parts
from grpo.runs._storage import (
    SEVERAL_PROCESSES,
    CheckpointError,
    IncompleteError,
    checkpoints_in,
    read_manifest,
    read_state,
)


def latest_whole(
    folder: Path, world: World = ALONE, sharded: Callable[[], Mapping[str, Tensor]] = dict
) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
    """The latest checkpoint that is whole, its manifest, and this process's part of its state; None without any.

    Args:
        folder: of the checkpoints.
        world: the processes that read it together, and agree on which it is.
        sharded: tells the tensors of which this process is to hold a part, by their places in the state.

    Raises:
        CheckpointError: if it was written by a later version of this library, or not all processes see the folder.

    Warns:
        UserWarning: for each later one that is not whole, with the reason.
    """
    for path in _seen_by_all(folder, world):
        manifest: dict[str, Any] = {}
        state: dict[str, Any] | None = None
        problem = None
        with world.together():
            try:
                manifest = read_manifest(path)
                if manifest["format"] == SEVERAL_PROCESSES:
                    _parts().check_parts(path, manifest, world)
                else:
                    state = read_state(path)
            except IncompleteError as error:
                problem = str(error)
            problems = list(filter(None, world.gather(problem)))
            if not problems:
                held = sharded()
                if state is None:
                    state = _parts().read_part(path, manifest, world.rank, held)
                return path, manifest, in_parts(state, held) if held else state
        if world.rank == 0:
            warnings.warn(f"{problems[0]}. It is left out, and the one before it is taken", stacklevel=2)
    return None


def _seen_by_all(folder: Path, world: World) -> list[Path]:
    """The checkpoints in a folder, the latest first.

    Raises:
        CheckpointError: if another process sees others.
    """
    found = checkpoints_in(folder)
    seen = world.gather([path.name for path in found])
    for rank, names in enumerate(seen):
        if names != seen[0]:
            mine, others = (", ".join(each[:3]) or "none" for each in (seen[0], names))
            raise CheckpointError(
                f"rank 0 sees the checkpoints {mine} in {folder}, rank {rank} sees {others}: choose a folder on a "
                f"disk that all processes share"
            )
    return found


def _parts() -> Any:
    """Imported where there are several processes only: it takes a second."""
    from grpo.runs import _parts

    return _parts
