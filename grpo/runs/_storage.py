"""Folders that hold a state, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from grpo.runs._plain_data import from_plain

FORMAT = 1
"""Of what is written here; a library reads its own and earlier ones."""
STATE, MANIFEST, CHECKSUMS = "state.pt", "manifest.json", "SHA256SUMS"
CHECKPOINT = re.compile(r"step-(\d{9,})")
UNFINISHED, REPLACED = ".unfinished-", ".replaced-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from; the message says why, and what to do."""


class IncompleteError(CheckpointError):
    """A checkpoint of which something is missing, or not as it was written."""


def write_state(folder: Path, state: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write a state into a folder of its own, beside it first, then renamed, so that it is whole or not there.

    Args:
        folder: what it is to be called; one that is there already is replaced.
        state: plain data, as :func:`grpo.runs._plain_data.to_plain` makes it.
        manifest: what is to be known of it without loading it, as JSON.

    Raises:
        OSError: if it cannot be written; nothing is left behind.
    """
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        sums = {}
        with _HashedFile(unfinished / STATE) as file:
            torch.save(state, cast("Any", file))
        sums[STATE] = file.hexdigest()
        with _HashedFile(unfinished / MANIFEST) as file:
            file.write(json.dumps({"format": FORMAT, **manifest}, indent=1).encode())
        sums[MANIFEST] = file.hexdigest()
        with _HashedFile(unfinished / CHECKSUMS) as file:
            file.write("".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())
        _flush_folder(unfinished)
        if folder.exists():
            remove(aside(folder))
            folder.rename(aside(folder))
        unfinished.rename(folder)
        _flush_folder(folder.parent)
        remove(aside(folder))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was noted of a state.

    Raises:
        IncompleteError: if it is not as it was written.
        CheckpointError: if it was written by a later version of this library.
    """
    sums = _read_checksums(folder)
    manifest: dict[str, Any] = json.loads(_verified(folder / MANIFEST, sums[MANIFEST]))
    if manifest["format"] > FORMAT:
        version = manifest.get("versions", {}).get("anygrpo", "unknown")
        raise CheckpointError(
            f"{folder} was written by a later version of this library, {version}, in format {manifest['format']}, "
            f"expected {FORMAT} or an earlier one: install that version"
        )
    return manifest


def read_state(folder: Path) -> dict[str, Any]:
    """The state that a folder holds, on the CPU; nothing that is loaded runs code.

    Raises:
        IncompleteError: if it is not as it was written.
    """
    path, expected = folder / STATE, _read_checksums(folder)[STATE]
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual == expected:
                file.seek(0)
                return _loaded(file)
    except OSError as error:
        raise IncompleteError(f"{folder} is not whole: {STATE} cannot be read ({error})") from error
    raise IncompleteError(f"{folder} is not whole: {STATE} has changed since it was written")


def present(folder: Path) -> Path:
    """Where a state is that is written again and again; set aside where a writer was killed while it replaced it."""
    return aside(folder) if aside(folder).exists() and not folder.exists() else folder


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def latest_whole(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
    """The latest checkpoint that is whole, its manifest, and its state; None without any.

    Raises:
        CheckpointError: if it was written by a later version of this library.

    Warns:
        UserWarning: for each later one that is not whole, with the reason.
    """
    for path in checkpoints_in(folder):
        try:
            return path, read_manifest(path), read_state(path)
        except IncompleteError as error:
            warnings.warn(f"{error}. It is left out, and the one before it is taken", stacklevel=2)
    return None


def remove(folder: Path) -> None:
    """Delete a folder that a state was written to; half deleted it is not taken for a whole one."""
    if folder.exists():
        doomed = folder.with_name(f"{UNFINISHED}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def aside(folder: Path) -> Path:
    """Where a state is while another one takes its place."""
    return folder.with_name(f"{REPLACED}{folder.name}")


def remove_unfinished(folder: Path) -> None:
    """Delete what writers that were killed have left behind."""
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:09d}"


def _read_checksums(folder: Path) -> dict[str, str]:
    try:
        text = (folder / CHECKSUMS).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise IncompleteError(f"{folder} is not whole: {CHECKSUMS} cannot be read ({error})") from error
    pattern = rf"([0-9a-f]{{64}})  {re.escape(STATE)}\n([0-9a-f]{{64}})  {re.escape(MANIFEST)}\n"
    lines = re.fullmatch(pattern, text)
    if lines is None:
        raise IncompleteError(f"{folder} is not whole: {CHECKSUMS} has changed since it was written")
    return {STATE: lines[1], MANIFEST: lines[2]}


def _verified(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IncompleteError(f"{path.parent} is not whole: {path.name} cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise IncompleteError(f"{path.parent} is not whole: {path.name} has changed since it was written")
    return content


def _loaded(file: BinaryIO) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of pickles that it then refuses
            return cast("dict[str, Any]", from_plain(torch.load(file, map_location="cpu", weights_only=True)))
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{file.name} is as its checksum says, but not what this library writes, and is not loaded, since it might "
            f"run code: take a checkpoint that you trust ({type(error).__name__})"
        ) from error


class _HashedFile:
    """A file to write to, flushed to the disk when it is closed, with the checksum of what was written."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._sum = hashlib.sha256()
        self._error: OSError | None = None

    def write(self, content: Any) -> int:
        self._sum.update(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self._error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._sum.hexdigest()

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            if self._error is not None:
                raise self._error  # PyTorch makes a RuntimeError of it
            self._file.flush()
            os.fsync(self._file.fileno())


def flush_to_disk(files: Iterable[Path]) -> None:
    """Let what was written to files last through a power cut."""
    for path in files:
        with path.open("ab") as file:
            os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Let a rename last through a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
