"""Keeps two runs from writing into one folder at the same time."""

from __future__ import annotations

import os
from pathlib import Path


class FolderInUseError(FileExistsError):
    """Another run writes into the folder now."""


class FolderLock:
    """A lock on a folder, which the system takes back when the process ends, however it ends.

    Where the system has none, as on Windows and on some network disks, two runs are not kept apart.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock; the folder must be there.

        Raises:
            FolderInUseError: if another run has it, of this process or another.
        """
        try:
            import fcntl
        except ModuleNotFoundError:
            return
        if self._descriptor is not None:
            return
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise FolderInUseError(
                f"another run writes into {self._path} now: wait until it is over, end it, or choose another folder"
            ) from error
        except OSError:
            os.close(descriptor)
            return
        self._descriptor = descriptor

    def give_back(self) -> None:
        """Let another run have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
