"""The folder of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo.runs._checkpoint_writer import CheckpointWriter
from grpo.runs._description import differing_keys
from grpo.runs._files import LinesFile, write_text
from grpo.runs._lock import FolderInUseError, FolderLock
from grpo.runs._storage import CheckpointError, checkpoints_in, latest_whole, remove
from grpo.runs.checkpoints import Checkpoints

FILES = ("metrics", "evaluations", "times")
DESCRIPTION, CHECKPOINTS = "run.json", "checkpoints"


class RunFolder:
    """What a run writes: its description, a line for each step in some files, and checkpoints.

    Args:
        path: of the folder.
        settings: of the checkpoints; None for a run that writes none.
    """

    def __init__(self, path: Path, settings: Checkpoints | None) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self.files = {name: LinesFile(path / f"{name}.jsonl") for name in FILES}
        self.writer = None if settings is None else CheckpointWriter(self.checkpoints, settings)
        self._lock = FolderLock(path)
        self._is_ours = False

    def begin(self, description: Mapping[str, Any]) -> None:
        """Make the folder, and say in it what the run is made of.

        Raises:
            FileExistsError: if it holds another run, or another one writes here now.
            OSError: if it cannot be written to.
        """
        if not self._is_ours and (
            (self.path / DESCRIPTION).exists() or self._has_lines() or checkpoints_in(self.checkpoints)
        ):
            raise FileExistsError(
                f"{self.path} holds a run already: choose another folder, or call run.resume() to go on with that one"
            )
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
        self._is_ours = True

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which no other run writes here.

        Raises:
            FolderInUseError: if another one writes here now.
        """
        if self.path.is_dir():
            self._lock.take()
        try:
            yield
        finally:
            self._lock.give_back()

    def latest(self) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
        """The latest checkpoint that is whole, what was noted of it, and its state; None where nothing was done yet.

        Raises:
            CheckpointError: if steps were made, but no checkpoint is whole: nothing is written over.
        """
        found = latest_whole(self.checkpoints)
        if found is None and (self._has_lines() or checkpoints_in(self.checkpoints)):
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
        changed = list(differing_keys(manifest["config"], now["config"]))
        if changed and not override:
            raise CheckpointError(
                f"{self.path} holds a run whose config was another: {'; '.join(changed)}. Give the trainer the same "
                f"one, or call run.resume(override=True) to change it on purpose"
            )
        return changed

    def take_over(self, checkpoint: Path | None) -> None:
        """Go on with the run that the folder holds, from a checkpoint or, where it has none, from its beginning.

        Checkpoints of later steps, which are not whole, and what else a writer that was killed has left, are deleted.
        """
        self._is_ours = True
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
        self.files[file].write(line)

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
