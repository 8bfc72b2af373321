"""Features of observations that have parts: tensors by name, which NumPy keeps as records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_adapters.gym.observations.frame_stacks import FrameStacks, gathered, joined_stacks


class Columns:
    """Tensors by name with the same leading dimension, such as the parts of n observations.

    A string gives a tensor, anything else selects rows of all of them, as it would of one tensor.

    Args:
        parts: the tensors, [n, ...] each; the part of a nested space has a path for a name, ``"arm/camera"``, and that
            of a Tuple its number, ``"0"``.

    Raises:
        ValueError: if there is none, or their leading dimensions differ.

    Example:
        >>> columns = Columns({"speed": torch.zeros(3, 2), "gear": torch.tensor([0, 4, 1])})
        >>> len(columns), columns["gear"].tolist(), columns[1:]["gear"].tolist()
        (3, [0, 4, 1], [4, 1])
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        lengths = {name: len(part) for name, part in parts.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Columns were given parts of lengths {lengths}, expected one length: a row of each")
        self._parts = dict(parts)

    def __len__(self) -> int:
        return len(next(iter(self._parts.values())))

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Names with their tensors."""
        yield from self._parts.items()

    @overload
    def __getitem__(self, which: str) -> Tensor: ...

    @overload
    def __getitem__(self, which: slice | Tensor) -> Columns: ...

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, str):
            return self._parts[which]
        return Columns({name: part[which] for name, part in self._parts.items()})

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self._parts.values())).device

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Columns:
        """All tensors on a device, those of floating-point numbers in ``dtype``."""
        return Columns(
            {name: part.to(device, dtype if part.is_floating_point() else None) for name, part in self._parts.items()}
        )

    def split(self, lengths: int | list[int]) -> tuple[Columns, ...]:
        """Consecutive rows, so many in each, as :meth:`torch.Tensor.split` has it; views."""
        parts = {name: part.split(lengths) for name, part in self._parts.items()}
        return tuple(Columns(dict(zip(parts, rows, strict=True))) for rows in zip(*parts.values(), strict=True))

    def __repr__(self) -> str:
        return f"Columns({ {name: [*part.shape] for name, part in self._parts.items()} })"


FeatureTensors: TypeAlias = Any
"""A tensor, or :class:`Columns` where an observation has parts: whoever reads it knows which."""


def tensors(features: NDArray[Any]) -> FeatureTensors:
    """Features [n, ...] as a tensor, records as columns, in the memory where they are."""
    if features.dtype.names is None:
        return torch.from_numpy(features)
    return Columns({name: torch.from_numpy(features[name]) for name in features.dtype.names})


def placed(features: FeatureTensors, device: torch.device, dtype: torch.dtype) -> Any:
    """Features where the networks are, and in their precision unless they are images or numbers of choices."""
    return features.to(device, dtype) if _takes_precision(features) else features.to(device)


def _takes_precision(features: FeatureTensors) -> bool:
    return isinstance(features, Columns) or (isinstance(features, Tensor) and features.is_floating_point())


def joined(parts: Sequence[Any]) -> Any:
    """Tensors or columns [T, ...] end to end; those that lie in memory end to end already are not copied."""
    if all(isinstance(part, FrameStacks) for part in parts):
        return joined_stacks(list(parts))
    parts = [gathered(part) for part in parts]
    first = parts[0]
    if isinstance(first, Columns):
        return Columns({name: joined([part[name] for part in parts]) for name in first})
    end = first.storage_offset()
    for part in parts:
        is_like_first = (part.dtype, part.shape[1:], part.stride()) == (first.dtype, first.shape[1:], first.stride())
        if not is_like_first or part.storage_offset() != end or not _share_memory(first, part):
            return torch.cat(list(parts))
        end += len(part) * part.stride(0)
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())


def _share_memory(left: Tensor, right: Tensor) -> bool:
    return left.untyped_storage().data_ptr() == right.untyped_storage().data_ptr()


def finite_rows(features: NDArray[Any], num_dimensions: int = 1) -> NDArray[np.bool_]:
    """Which of the entries along the first dimensions have finite numbers only."""
    if features.dtype.names is not None:
        every = [finite_rows(features[name], num_dimensions) for name in features.dtype.names]
        result: NDArray[np.bool_] = np.logical_and.reduce(every)
        return result
    if not np.issubdtype(features.dtype, np.floating) or np.isfinite(features.sum()):
        return np.ones(features.shape[:num_dimensions], dtype=bool)
    finite: NDArray[np.bool_] = np.isfinite(features).reshape(*features.shape[:num_dimensions], -1).all(-1)
    return finite


def not_finite_parts(features: NDArray[Any]) -> Any:
    """The numbers of one observation, of records only those of parts that are not finite."""
    if features.dtype.names is None:
        return features.tolist()
    return {name: features[name].tolist() for name in features.dtype.names if not finite_rows(features[name], 0)}


def plain(features: NDArray[Any]) -> Any:
    """A copy of features as a tensor, or of records as tensors by name."""
    if features.dtype.names is None:
        return torch.tensor(features)
    return {name: torch.tensor(features[name]) for name in features.dtype.names}


def from_plain(stored: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """What :func:`plain` was given, in new memory."""
    if isinstance(stored, Tensor):
        return np.array(stored.numpy())
    features = np.empty(len(next(iter(stored.values()))), dtype=dtype)
    for name, part in stored.items():
        features[name] = part.numpy()
    return features
