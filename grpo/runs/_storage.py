"""Folders that hold a state, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from grpo.runs._plain_data import from_plain

ONE_PROCESS, SEVERAL_PROCESSES = 1, 2
"""The formats of what one process writes, and of what each of several writes a part of."""
FORMAT = SEVERAL_PROCESSES
"""The latest; a library reads its own and earlier ones."""
STATE, MANIFEST, CHECKSUMS = "state.pt", "manifest.json", "SHA256SUMS"
CHECKSUM = re.compile(r"([0-9a-f]{64})  ([\w.-]+)\n")
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
        sums = {STATE: write_data(unfinished / STATE, state)}
        finish(unfinished, folder, sums, {"format": ONE_PROCESS, **manifest})
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def finish(unfinished: Path, folder: Path, sums: Mapping[str, str], manifest: Mapping[str, Any]) -> None:
    """Give a folder, in which all files are written, its manifest and its name.

    Args:
        unfinished: the folder.
        folder: what it is to be called; one that is there already is replaced.
        sums: the checksum of each file in it.
        manifest: what is to be known of it, as JSON, the format included.
    """
    sums = {**sums, MANIFEST: write_bytes(unfinished / MANIFEST, json.dumps(manifest, indent=1).encode())}
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    write_bytes(unfinished / CHECKSUMS, lines.encode())
    _flush_folder(unfinished)
    if folder.exists():
        remove(aside(folder))
        folder.rename(aside(folder))
    unfinished.rename(folder)
    _flush_folder(folder.parent)
    remove(aside(folder))


def write_data(path: Path, data: Any) -> str:
    """Write plain data into a file, flushed to the disk; its checksum."""
    with _HashedFile(path) as file:
        torch.save(data, cast("Any", file))
    return file.hexdigest()


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file, flushed to the disk; its checksum."""
    with _HashedFile(path) as file:
        file.write(content)
    return file.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What was noted of a state.

    Raises:
        IncompleteError: if it is not as it was written.
        CheckpointError: if it was written by a later version of this library.
    """
    manifest: dict[str, Any] = json.loads(read_bytes(folder / MANIFEST, read_checksums(folder)))
    if manifest["format"] > FORMAT:
        version = manifest.get("versions", {}).get("anygrpo", "unknown")
        raise CheckpointError(
            f"{folder} was written by a later version of this library, {version}, in format {manifest['format']}, "
            f"expected {FORMAT} or an earlier one: install that version"
        )
    return manifest


def read_state(folder: Path) -> dict[str, Any]:
    """The state that one process wrote into a folder, on the CPU; nothing that is loaded runs code.

    Raises:
        IncompleteError: if it is not as it was written.
    """
    plain = read_data(folder / STATE, read_checksums(folder))
    with refuses_what_is_foreign(folder / STATE):
        state: dict[str, Any] = from_plain(plain)
        return state


def read_data(path: Path, sums: Mapping[str, str]) -> Any:
    """The plain data in a file, on the CPU.

    Raises:
        IncompleteError: if it is not as it was written.
    """
    try:
        with path.open("rb") as file:
            _require_same(path, hashlib.file_digest(file, "sha256").hexdigest(), sums)
            file.seek(0)
            with refuses_what_is_foreign(path), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns of pickles that it then refuses
                return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_bytes(path: Path, sums: Mapping[str, str]) -> bytes:
    """What is in a file.

    Raises:
        IncompleteError: if it is not as it was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    _require_same(path, hashlib.sha256(content).hexdigest(), sums)
    return content


def check_file(path: Path, sums: Mapping[str, str]) -> None:
    """Raise an IncompleteError if a file is not as it was written."""
    try:
        _require_same(path, digest_of(path), sums)
    except OSError as error:
        raise _unreadable(path, error) from error


def digest_of(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def present(folder: Path) -> Path:
    """Where a state is that is written again and again; set aside where a writer was killed while it replaced it."""
    return aside(folder) if aside(folder).exists() and not folder.exists() else folder


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


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


def read_checksums(folder: Path) -> dict[str, str]:
    """The checksum of each file in a folder that holds a state.

    Raises:
        IncompleteError: if they are not there as they were written.
    """
    try:
        text = (folder / CHECKSUMS).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise IncompleteError(f"{folder} is not whole: {CHECKSUMS} cannot be read ({error})") from error
    sums = {name: digest for digest, name in CHECKSUM.findall(text)}
    if MANIFEST not in sums or text != "".join(f"{digest}  {name}\n" for name, digest in sums.items()):
        raise IncompleteError(f"{folder} is not whole: {CHECKSUMS} has changed since it was written")
    return sums


def _require_same(path: Path, digest: str, sums: Mapping[str, str]) -> None:
    if sums.get(path.name) != digest:
        raise IncompleteError(f"{path.parent} is not whole: {path.name} has changed since it was written")


def _unreadable(path: Path, error: OSError) -> IncompleteError:
    return IncompleteError(f"{path.parent} is not whole: {path.name} cannot be read ({error})")


@contextmanager
def refuses_what_is_foreign(path: Path) -> Iterator[None]:
    """A block that reads what is in a file, as its checksum says; it may still not be what this library wrote."""
    try:
        yield
    except (OSError, CheckpointError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} is as its checksum says, but not what this library writes, and is not loaded, since it might "
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
