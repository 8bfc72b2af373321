"""Writes checkpoints, one after the other; those that are not to be kept go."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpo.runs._comparison import is_better, metrics_meant
from grpo.runs._plain_data import to_plain
from grpo.runs._storage import (
    CHECKPOINT,
    checkpoint_path,
    checkpoints_in,
    flush_to_disk,
    remove,
    remove_unfinished,
    write_state,
)
from grpo.runs.checkpoints import Checkpoints
from grpo.training._optimization import level_of_caller

Best = tuple[float, int] | None
"""The best value so far, with its step."""


class CheckpointWriter:
    """Writes the checkpoints of a run into a folder.

    Args:
        folder: of the checkpoints.
        settings: what is kept, and what happens where one cannot be written.
    """

    def __init__(self, folder: Path, settings: Checkpoints) -> None:
        self.folder = folder
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._best: Best = None
        self._best_of = [settings.keep_best, settings.best_is]
        self._has_warned = False

    def write(
        self, step: int, take_state: Callable[[], Any], manifest: Mapping[str, Any], *, must: bool = False
    ) -> None:
        """Write a checkpoint; in the background where that is asked for.

        Args:
            step: of the checkpoint.
            take_state: gives what is to be saved, which nothing changes any more. It is called when the checkpoint
                before is there, so that no more than one copy is in memory.
            manifest: what is noted of it.
            must: whether to return only when it is there, and to raise an error where the settings would go on
                without.

        Raises:
            TypeError: if the state holds what cannot be saved.
            OSError: if it cannot be written, or the one before it could not.
        """
        self.wait()
        try:
            plain = to_plain(take_state())
        except OSError as error:  # lines that the state tells of cannot be written
            self._error = error
            self._raise(must=must)
            return
        if self._settings.asynchronous and not must:
            arguments = (step, plain, manifest, self._best)
            self._thread = threading.Thread(target=self._write_noting, args=arguments, daemon=True)
            self._thread.start()
            return
        self._write_noting(step, plain, manifest, self._best)
        self._raise(must=must)

    def wait(self) -> None:
        """Let what is being written be there.

        Raises:
            OSError: if it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._raise(must=False)

    @property
    def is_written(self) -> bool:
        """Whether one waits for the other processes; never where there are none."""
        return False

    @property
    def stops_on_failure(self) -> bool:
        """Whether the run ends where a checkpoint cannot be written."""
        return self._settings.on_failure == "stop"

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, with its step, and what it is the best of."""
        return {"best": None if self._best is None else list(self._best), "best_of": self._best_of}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned; anew where another metric is followed now."""
        best = state_dict["best"] if state_dict["best_of"] == self._best_of else None
        self._best = None if best is None else (float(best[0]), int(best[1]))

    def compare(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note whether the checkpoint of this step is the best so far."""
        name = self._settings.keep_best
        if name is None or name not in metrics or math.isnan(metrics[name]):
            return
        if is_better(metrics[name], None if self._best is None else self._best[0], self._settings.best_is):
            self._best = metrics[name], step

    def warn_of_unknown(self, metrics: Mapping[str, float], *, at_end: bool) -> None:
        """Say once that no metric has the name that is followed: as soon as one has nearly that, or at the end."""
        name = self._settings.keep_best
        if name is None or name in metrics or self._best is not None or self._has_warned:
            return
        meant = metrics_meant(name, metrics, at_end=at_end)
        if meant or at_end:
            self._has_warned = True
            warnings.warn(
                f"Checkpoints(keep_best={name!r}) has seen no number called that so far, and has kept no best "
                f"checkpoint: expected one of {meant}",
                stacklevel=level_of_caller(),
            )

    def tidy(self) -> None:
        """Delete what is not to be kept, and what a writer that was killed has left."""
        remove_unfinished(self.folder)
        self._remove_old(self._best)

    def _write_noting(self, step: int, state: Any, manifest: Mapping[str, Any], best: Best) -> None:
        try:
            remove_unfinished(self.folder)
            flush_to_disk(self.folder.parent.glob("*.jsonl"))  # the state tells how long they are
            write_state(checkpoint_path(self.folder, step), state, manifest)
            self._remove_old(best)
        except BaseException as error:
            self._error = error

    def _raise(self, *, must: bool) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        if must or self.stops_on_failure or not isinstance(error, OSError):
            error.add_note(
                f"the checkpoint could not be written into {self.folder}: make room there, or choose another folder"
            )
            raise error
        warnings.warn(
            f"a checkpoint could not be written into {self.folder} ({error}); the training goes on without it",
            stacklevel=2,
        )

    def _remove_old(self, best: Best) -> None:
        settings = self._settings
        for path in checkpoints_in(self.folder)[settings.keep_last :]:
            match = CHECKPOINT.fullmatch(path.name)
            assert match is not None
            step = int(match[1])
            is_nth = settings.keep_every is not None and step % settings.keep_every == 0
            if not is_nth and (best is None or step != best[1]):
                remove(path)
