"""The folder of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo.runs._checkpoint_writer import CheckpointWriter
from grpo.runs._description import differing_keys
from grpo.runs._files import LinesFile
from grpo.runs._storage import UNFINISHED, CheckpointError, checkpoints_in, latest_whole, remove
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
        self._is_ours = False

    def begin(self, description: Mapping[str, Any]) -> None:
        """Make the folder, and say in it what the run is made of.

        Raises:
            FileExistsError: if it holds another run.
            OSError: if it cannot be written to.
        """
        if self._is_ours:
            return
        there = [path.name for path in (self.path / DESCRIPTION, *self._paths) if path.exists()]
        if there:
            raise FileExistsError(
                f"{self.path} holds a run already ({', '.join(there)}): choose another folder, or call run.resume() to "
                f"go on with that one"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._describe(description)
        self._is_ours = True

    def changed_settings(self, description: Mapping[str, Any], *, override: bool) -> list[str] | None:
        """The settings that differ from those of the run that the folder holds; None where it holds none.

        Raises:
            CheckpointError: if that is a run of another trainer, or settings differ and ``override`` is not set.
        """
        path = self.path / DESCRIPTION
        if not path.exists():
            return None
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise CheckpointError(f"{path} cannot be read ({error}): choose another folder") from error
        if before["trainer"] != description["trainer"]:
            raise CheckpointError(
                f"{self.path} holds a run of {before['trainer']}, expected one of {description['trainer']}: make the "
                f"trainer that the run was begun with, or choose another folder"
            )
        changed = list(differing_keys(before["config"], description["config"]))
        if changed and not override:
            raise CheckpointError(
                f"{self.path} holds a run whose config was another: {'; '.join(changed)}. Give the trainer the same "
                f"one, or call run.resume(override=True) to change it on purpose"
            )
        return changed

    def take_over(self, description: Mapping[str, Any]) -> None:
        """Go on with the run that the folder holds."""
        self._describe(description)
        self._is_ours = True

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The latest checkpoint that is whole, with its state; None without any."""
        found = latest_whole(self.checkpoints)
        return None if found is None else (found[0], found[2])

    def remove_after(self, path: Path) -> None:
        """Delete the checkpoints of later steps, which are not whole."""
        for later in checkpoints_in(self.checkpoints):
            if later == path:
                return
            remove(later)

    def write(self, file: str, line: Mapping[str, Any]) -> None:
        """Append a line to a file."""
        self.files[file].write(line)

    def close(self) -> None:
        """Let everything be written, and let go of the files."""
        for file in self.files.values():
            file.close()
        if self.writer is not None:
            self.writer.wait()

    def state_dict(self) -> dict[str, Any]:
        """How far the files are written, and which checkpoint is the best."""
        lengths = {name: file.length for name, file in self.files.items()}
        return {"lengths": lengths, "writer": None if self.writer is None else self.writer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the files back to where they were.

        Raises:
            ValueError: if one is shorter; none has changed then.
        """
        for name, file in self.files.items():
            file.require_length(state_dict["lengths"][name])
        for name, file in self.files.items():
            file.go_on_from(state_dict["lengths"][name])
        if self.writer is not None and state_dict["writer"] is not None:
            self.writer.load_state_dict(state_dict["writer"])

    def clear(self) -> None:
        """Take the files back to the beginning of the run."""
        for file in self.files.values():
            file.go_on_from(0)

    @property
    def _paths(self) -> list[Path]:
        return [file.path for file in self.files.values()]

    def _describe(self, description: Mapping[str, Any]) -> None:
        unfinished = self.path / f"{UNFINISHED}{DESCRIPTION}"
        unfinished.write_text(json.dumps(description, indent=1) + "\n")
        unfinished.replace(self.path / DESCRIPTION)
