"""The folder of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from grpo.distributed.world import ALONE, World
from grpo.runs._checkpoint_writer import CheckpointWriter
from grpo.runs._description import differing_keys
from grpo.runs._files import LinesFile, write_text
from grpo.runs._latest import latest_whole
from grpo.runs._lock import FolderInUseError, FolderLock
from grpo.runs._part_writer import PartWriter
from grpo.runs._storage import CheckpointError, checkpoints_in, remove
from grpo.runs.checkpoints import Checkpoints

FILES = ("metrics", "evaluations", "times")
DESCRIPTION, CHECKPOINTS = "run.json", "checkpoints"


class RunFolder:
    """What a run writes: its description, a line for each step in some files, and checkpoints.

    Of several processes the first writes, and all write checkpoints.

    Args:
        path: of the folder.
        settings: of the checkpoints; None for a run that writes none.
        world: the processes of the run.
    """

    def __init__(self, path: Path, settings: Checkpoints | None, world: World = ALONE) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self.files = {name: LinesFile(path / f"{name}.jsonl") for name in FILES} if world.rank == 0 else {}
        self.writer = None if settings is None else _writer(self.checkpoints, settings, world)
        self._world = world
        self._lock = FolderLock(path)
        self._is_ours = False

    def begin(self, description: Mapping[str, Any]) -> None:
        """Make the folder, and say in it what the run is made of.

        Raises:
            FileExistsError: if it holds another run, or another one writes here now.
            OSError: if it cannot be written to.
        """
        with self._world.together():
            if self._world.rank == 0:
                self._begin(description)
        self._is_ours = True

    def _begin(self, description: Mapping[str, Any]) -> None:
        if not self._is_ours and (
            (self.path / DESCRIPTION).exists() or self._has_lines() or checkpoints_in(self.checkpoints)
        ):
            raise FileExistsError(
                f"{self.path} holds a run already: choose another folder, or call run.resume() to go on with that one"
            )
        if not self._is_ours:
            self._require_own_files()
        text = json.dumps(description, indent=1) + "\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.take()
            write_text(self.path / DESCRIPTION, text)
        except FolderInUseError:
            raise
        except OSError as error:
            self._lock.give_back()
            error.add_note(f"the run cannot write into {self.path}: choose a folder that it may write to")
            raise

    def _require_own_files(self) -> None:
        """Raise a FileExistsError if something else, which is no run, is about to write the lines of this one."""
        for file in self.files.values():
            if file.path.exists():
                raise FileExistsError(
                    f"{file.path} is there already, and is not this run's: choose another folder for the run or, if a "
                    f"tracker writes it, for the tracker, such as {self.path / 'tracking'}"
                )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which no other run writes here.

        Raises:
            FolderInUseError: if another one writes here now.
        """
        with self._world.together():
            if self._world.rank == 0 and self.path.is_dir():
                self._lock.take()
        try:
            yield
        finally:
            self._lock.give_back()

    def latest(self, sharded: Callable[[], Mapping[str, Tensor]]) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
        """The latest checkpoint that is whole, what was noted of it, and its state; None where nothing was done yet.

        Args:
            sharded: tells the tensors of which this process is to hold a part, by their places in the state.

        Raises:
            CheckpointError: if steps were made, but no checkpoint is whole: nothing is written over.
        """
        found = latest_whole(self.checkpoints, self._world, sharded)
        if found is None and self._world.any(self._has_lines() or bool(checkpoints_in(self.checkpoints))):
            raise CheckpointError(
                f"{self.path} holds a run, but no checkpoint that is whole, so that it cannot be gone on with: choose "
                f"another folder, or delete this one to begin anew"
            )
        return found

    def changes_since(self, manifest: Mapping[str, Any], now: Mapping[str, Any], *, override: bool) -> list[str]:
        """The settings that differ from those that a checkpoint was written with.

        Raises:
            CheckpointError: if it is one of another trainer, or settings differ and ``override`` is not set.
        """
        if manifest["trainer"] != now["trainer"]:
            raise CheckpointError(
                f"{self.path} holds a run of {manifest['trainer']}, expected one of {now['trainer']}: make the "
                f"trainer that the run was begun with, or choose another folder"
            )
        before = manifest.get("parts", {})
        parts = {name: text for name, text in now["parts"].items() if name in before}  # earlier versions tell fewer
        changed = [*differing_keys(manifest["config"], now["config"]), *differing_keys(before, parts)]
        if changed and not override:
            raise CheckpointError(
                f"{self.path} holds a run that was set up otherwise: {'; '.join(changed)}. Set up the trainer in the "
                f"same way, or call run.resume(override=True) to change it on purpose"
            )
        return changed

    def take_over(self, checkpoint: Path | None) -> None:
        """Go on with the run that the folder holds, from a checkpoint or, where it has none, from its beginning.

        Checkpoints of later steps, which are not whole, and what else a writer that was killed has left, are deleted.
        """
        self._is_ours = True
        with self._world.together():
            if self._world.rank == 0:
                self._take_over(checkpoint)

    def _take_over(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            for file in self.files.values():
                file.go_on_from(0)
            return
        for path in checkpoints_in(self.checkpoints):
            if path == checkpoint:
                break
            remove(path)
        if self.writer is not None:
            self.writer.tidy()

    def write(self, file: str, line: Mapping[str, Any]) -> None:
        """Append a line to a file."""
        if file in self.files:
            self.files[file].write(line)

    @property
    def is_written(self) -> bool:
        """Whether this process has written its part of a checkpoint, which waits for those of the others."""
        return self.writer is not None and self.writer.is_written

    def wait(self) -> None:
        """Let a checkpoint that is being written be there."""
        if self.writer is not None:
            self.writer.wait()

    def close(self) -> None:
        """Let everything be written, and let go of the files.

        Raises:
            OSError: if something cannot be written, and the settings would not go on without.
        """
        try:
            self._close_files()
        finally:
            self._lock.give_back()

    def _close_files(self) -> None:
        failures = []
        for file in self.files.values():
            try:
                file.close()
            except OSError as error:
                failures.append(error)
        if self.writer is not None:
            self.writer.wait()
        if failures and (self.writer is None or self.writer.stops_on_failure):
            raise failures[0]
        for failure in failures:
            warnings.warn(f"lines could not be written into {self.path} ({failure})", stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """How far the files are written, and which checkpoint is the best."""
        lengths = {name: file.length for name, file in self.files.items()}
        return {"lengths": lengths, "writer": None if self.writer is None else self.writer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the files back to where they were.

        Raises:
            ValueError: if one is shorter; all are left as they are then.
        """
        for name, file in self.files.items():
            file.require_length(state_dict["lengths"][name])
        for name, file in self.files.items():
            file.go_on_from(state_dict["lengths"][name])
        if self.writer is not None and state_dict["writer"] is not None:
            self.writer.load_state_dict(state_dict["writer"])

    def _has_lines(self) -> bool:
        return any(file.length > 0 for file in self.files.values())


def _writer(folder: Path, settings: Checkpoints, world: World) -> CheckpointWriter:
    return CheckpointWriter(folder, settings) if world.is_alone else PartWriter(folder, settings, world)
