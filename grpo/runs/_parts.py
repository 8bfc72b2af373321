"""Checkpoints of which each of several processes writes a part.

What differs from process to process is in a file of each; tensors that are the same on all, and those that are sharded,
are stored once by ``torch.distributed.checkpoint``, in pieces from which any number of processes reads what it holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan

from grpo.distributed.parts import is_sharded
from grpo.distributed.world import World
from grpo.runs._plain_data import SHARED, from_plain
from grpo.runs._sharded import like, tensors_in
from grpo.runs._storage import (
    MANIFEST,
    IncompleteError,
    check_file,
    digest_of,
    read_bytes,
    read_checksums,
    read_data,
    refuses_what_is_foreign,
    write_bytes,
    write_data,
)


@dataclass(frozen=True)
class Part:
    """What one process writes: its own state, in which shared tensors are left out, and some of those tensors."""

    state: Any
    plan: SavePlan
    planner: DefaultSavePlanner


def part_of(state: Any, world: World) -> Part:
    """This process's part of a checkpoint of plain data, after a look at what the others hold."""
    tensors = dict(tensors_in(state))
    shared = {place: tensors[place] for place in _on_all(tensors, world)}
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    with world.together():
        planner.set_up_planner(shared, is_coordinator=world.rank == 0)
        plans = world.gather(planner.create_local_plan())
        if world.rank == 0:
            plans, _ = planner.create_global_plan(plans)
            plans = FileSystemWriter("").prepare_global_plan(plans)
        plan = world.broadcast(plans)[world.rank]
        return Part(_without(state, shared), planner.finish_plan(plan), planner)


def write_part(folder: Path, part: Part, rank: int) -> dict[str, str]:
    """Write a part of a checkpoint; the checksum of each file."""
    state, places, content = files_of(rank)
    results = FileSystemWriter(folder).write_data(part.plan, part.planner).value()
    stored = {result.index: result.storage_data for result in results}
    pieces = []
    for item in part.plan.items:
        data, where = item.tensor_data, stored[item.index]
        assert data is not None
        pieces.append(
            {
                "name": item.index.fqn,
                "dtype": str(data.properties.dtype).removeprefix("torch."),
                "shape": list(data.size),
                "offsets": list(data.chunk.offsets),
                "sizes": list(data.chunk.sizes),
                "file": where.relative_path,
                "start": where.offset,
                "length": where.length,
            }
        )
    return {
        state: write_data(folder / state, part.state),
        places: write_bytes(folder / places, json.dumps(pieces).encode()),
        content: digest_of(folder / content),
    }


def files_of(rank: int) -> tuple[str, str, str]:
    """The files that a process writes: its own state, where pieces of shared tensors are, and those pieces."""
    return f"state-{rank:05d}.pt", f"pieces-{rank:05d}.json", f"__{rank}_0.distcp"


def check_parts(folder: Path, manifest: Mapping[str, Any], world: World) -> None:
    """Raise an IncompleteError if a file is missing or not as it was written; each process looks at some of them."""
    sums = read_checksums(folder)
    expected = {MANIFEST, *(name for rank in range(manifest["ranks"]) for name in files_of(rank))}
    if sums.keys() != expected:
        missing = ", ".join(sorted(expected ^ sums.keys())[:3])
        raise IncompleteError(f"{folder} is not whole: it has not the files of {manifest['ranks']} ranks ({missing})")
    for name in world.share(sorted(expected)):
        check_file(folder / name, sums)


def read_part(folder: Path, manifest: Mapping[str, Any], rank: int, sharded: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of a process, on the CPU, or of what comes nearest to it where it was written by fewer.

    Args:
        folder: of the checkpoint.
        manifest: of the checkpoint.
        rank: of the process that reads.
        sharded: tensors of which it is to hold a part, by their places in the state, or those of what goes with them.
    """
    sums = read_checksums(folder)
    path = folder / files_of(rank % manifest["ranks"])[0]
    state = read_data(path, sums)
    with refuses_what_is_foreign(path):
        reader = _PiecesReader(folder, [_pieces(folder, part, sums) for part in range(manifest["ranks"])])
        metadata = reader.read_metadata()
        targets: dict[str, Any] = {
            place: _target(cast("TensorStorageMetadata", metadata.state_dict_metadata[place]), place, sharded)
            for place in _left_out(state)
        }
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        planner.set_up_planner(targets, metadata, is_coordinator=False)
        reader.set_up_storage_reader(metadata, is_coordinator=False)
        reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()
        restored: dict[str, Any] = from_plain(_with(state, targets))
        return restored


class _PiecesReader(FileSystemReader):
    """Reads tensors whose places stand in JSON: the reader that it inherits from unpickles them, which runs code."""

    def __init__(self, folder: Path, pieces: list[list[dict[str, Any]]]) -> None:
        super().__init__(folder)
        self._pieces = [piece for part in pieces for piece in part]

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        tensors: dict[str, Any] = {}
        storage: dict[MetadataIndex, _Place] = {}
        for piece in self._pieces:
            offsets, shape = torch.Size(piece["offsets"]), torch.Size(piece["shape"])
            properties = TensorProperties(dtype=getattr(torch, piece["dtype"]))
            tensor = tensors.setdefault(piece["name"], TensorStorageMetadata(properties, shape, []))
            tensor.chunks.append(ChunkStorageMetadata(offsets, torch.Size(piece["sizes"])))
            storage[MetadataIndex(piece["name"], offsets)] = _Place(piece["file"], piece["start"], piece["length"])
        return Metadata(tensors, storage_data=storage)


@dataclass(frozen=True)
class _Place:
    """Where a piece is; ``torch.distributed.checkpoint`` asks for these names."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


def _pieces(folder: Path, rank: int, sums: Mapping[str, str]) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = json.loads(read_bytes(folder / files_of(rank)[1], sums))
    return pieces


def _on_all(tensors: Mapping[str, Tensor], world: World) -> list[str]:
    """The places of tensors that all processes hold, bit for bit the same, or a part each."""
    first, *others = world.gather({place: _content_of(tensor) for place, tensor in tensors.items()})
    return [place for place, content in first.items() if content and all(content == own.get(place) for own in others)]


def _content_of(tensor: Tensor) -> tuple[Any, ...] | None:
    """What tells whether a tensor is the same elsewhere; None for one that each process keeps to itself."""
    kind = (str(tensor.dtype), tuple(tensor.shape))
    if is_sharded(tensor):
        return kind
    if tensor.numel() == 0 or tensor.layout != torch.strided or not tensor.is_contiguous():
        return None
    content: Any = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return *kind, hashlib.sha256(content).digest()


def _without(value: Any, shared: Mapping[str, Tensor], place: str = "") -> Any:
    """A state in which only the places of shared tensors are left."""
    if place in shared:
        return {SHARED: place}
    if isinstance(value, Mapping):
        return {name: _without(part, shared, f"{place}[{name!r}]") for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without(part, shared, f"{place}[{index}]") for index, part in enumerate(value))
    return value


def _left_out(state: Any) -> Iterator[str]:
    """The places of the shared tensors of a state."""
    if isinstance(state, Mapping):
        if SHARED in state:
            yield state[SHARED]
            return
        state = list(state.values())
    if type(state) in (list, tuple):
        for part in state:
            yield from _left_out(part)


def _with(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A state in which the shared tensors are back."""
    if isinstance(state, Mapping):
        if SHARED in state:
            return tensors[state[SHARED]]
        return {name: _with(part, tensors) for name, part in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_with(part, tensors) for part in state)
    return state


def _target(stored: TensorStorageMetadata, place: str, sharded: Mapping[str, Tensor]) -> Tensor:
    """The memory that a tensor is read into: the part of it that this process is to hold, or all of it."""
    own, dtype = like(place, stored.size, sharded), stored.properties.dtype
    return torch.empty(stored.size, dtype=dtype) if own is None else torch.empty_like(own, dtype=dtype)
