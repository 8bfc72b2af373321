"""Writes checkpoints of which each of several processes writes a part."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo.distributed.world import World
from grpo.runs._checkpoint_writer import Best, CheckpointWriter
from grpo.runs._plain_data import to_plain
from grpo.runs._storage import (
    SEVERAL_PROCESSES,
    UNFINISHED,
    CheckpointError,
    checkpoint_path,
    finish,
    flush_to_disk,
    remove_unfinished,
)
from grpo.runs.checkpoints import Checkpoints

if TYPE_CHECKING:
    from grpo.runs._parts import Part

SECONDS_UNTIL_SEEN = 10.0
"""After which a folder that another process has made is taken for one on another disk."""


@dataclass(frozen=True)
class _Begun:
    """A checkpoint that all processes write now."""

    step: int
    unfinished: Path
    manifest: Mapping[str, Any]
    best: Best


class PartWriter(CheckpointWriter):
    """Writes this process's parts of a run's checkpoints; the first process gives each its name when all are written.

    All processes call the same methods in the same order.

    Args:
        folder: of the checkpoints, on a disk that all processes share.
        settings: what is kept, and what happens where one cannot be written.
        world: the processes.
    """

    def __init__(self, folder: Path, settings: Checkpoints, world: World) -> None:
        super().__init__(folder, settings)
        self._world = world
        self._begun: _Begun | None = None
        self._sums: dict[str, str] | None = None

    def write(
        self, step: int, take_state: Callable[[], Any], manifest: Mapping[str, Any], *, must: bool = False
    ) -> None:
        """Write this process's part of a checkpoint, as :meth:`CheckpointWriter.write` does the whole."""
        from grpo.runs._parts import part_of  # takes a second, and is for several processes only

        self.wait()
        plain, made = None, None
        with self._world.together():
            try:
                plain = to_plain(take_state())
                made = self._made(step) if self._world.rank == 0 else None
            except OSError as error:
                self._error = error
            name = self._world.broadcast(made)
            if self._world.any(self._error is not None) or name is None:
                self._raise(must=must)
                return
            unfinished = self._seen(name)
        part = part_of(plain, self._world)
        self._begun = _Begun(step, unfinished, manifest, self._best)
        if self._settings.asynchronous and not must:
            self._thread = threading.Thread(target=self._write_part, args=(unfinished, part), daemon=True)
            self._thread.start()
            return
        self._write_part(unfinished, part)
        self._settle(must=must)

    def wait(self) -> None:
        """Let what is being written be there.

        Raises:
            OSError: if this process could not write its part.
            RankError: if another one could not.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._begun is not None:
            self._settle(must=False)

    @property
    def is_written(self) -> bool:
        """Whether this process has written its part of a checkpoint that has no name yet."""
        return self._begun is not None and not (self._thread is not None and self._thread.is_alive())

    def _made(self, step: int) -> str:
        """A new folder for a checkpoint, by its name."""
        remove_unfinished(self.folder)
        flush_to_disk(self.folder.parent.glob("*.jsonl"))  # the state tells how long they are
        name = f"{UNFINISHED}{checkpoint_path(self.folder, step).name}-{secrets.token_hex(4)}"
        (self.folder / name).mkdir(parents=True)
        return name

    def _seen(self, name: str) -> Path:
        """The folder that the first process has made, which a network disk may show a little later."""
        deadline = time.monotonic() + min(SECONDS_UNTIL_SEEN, self._world.timeout / 2)  # others wait for this one
        while not (self.folder / name).is_dir():
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"rank {self._world.rank} does not see what rank 0 has written into {self.folder}: choose a folder "
                    f"on a disk that all processes share"
                )
            time.sleep(0.05)
        return self.folder / name

    def _write_part(self, unfinished: Path, part: Part) -> None:
        from grpo.runs._parts import write_part

        try:
            self._sums = write_part(unfinished, part, self._world.rank)
        except BaseException as error:
            self._error = error

    def _settle(self, *, must: bool) -> None:
        """Give the checkpoint its name, if all processes have written their parts."""
        assert self._begun is not None
        sums = self._world.gather(self._sums)
        begun, self._begun, self._sums = self._begun, None, None
        with self._world.together():
            if self._world.rank == 0:
                self._finish(begun, sums)
            self._raise(must=must)

    def _finish(self, begun: _Begun, sums: list[dict[str, str] | None]) -> None:
        try:
            if None in sums:
                shutil.rmtree(begun.unfinished, ignore_errors=True)
                return
            together = {name: digest for part in sums if part is not None for name, digest in part.items()}
            manifest = {"format": SEVERAL_PROCESSES, "ranks": self._world.size, **begun.manifest}
            finish(begun.unfinished, checkpoint_path(self.folder, begun.step), together, manifest)
            self._remove_old(begun.best)
        except OSError as error:
            shutil.rmtree(begun.unfinished, ignore_errors=True)
            self._error = error
