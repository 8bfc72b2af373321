"""Batches of states or actions of any kind: a sequence with an entry a sample, or a tensor whose first axis counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.data.segments import Segments

PLAIN = (str, int, float, bool, bytes, type(None))

EntryT_co = TypeVar("EntryT_co", covariant=True)


@runtime_checkable
class Batch(Protocol[EntryT_co]):
    """What the core asks of a batch: a length, and entries by index and in turn, as lists, tensors and arrays have.

    The core repeats, joins and selects the entries and never looks inside them. A tensor stays a tensor; any
    other batch reaches the models as a list.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[EntryT_co]: ...

    def __getitem__(self, index: int, /) -> EntryT_co: ...


class EqualGroups(Generic[EntryT_co]):
    """Groups of equally many actions each, cut from a batch that holds the actions of all states, group after group.

    A sampler returns it where its actions are one object, such as a rollout of thousands of environments: the batch
    then reaches the models as it is, and is not taken apart into a list.

    Args:
        actions: S * size actions, those of a state next to each other.
        size: actions for each state.

    Raises:
        ValueError: if the actions cannot be cut into groups of this size.

    Example:
        >>> groups = EqualGroups("abcdef", 2)
        >>> len(groups), groups[1], groups.actions
        (3, ['c', 'd'], 'abcdef')
    """

    def __init__(self, actions: Batch[EntryT_co], size: int = 1) -> None:
        if size < 1 or len(actions) % size:
            raise ValueError(f"{len(actions)} actions cannot be cut into groups of {size}: pass as many for each state")
        self.actions = actions
        self.size = size

    def __len__(self) -> int:
        return len(self.actions) // self.size

    def __getitem__(self, index: int) -> list[EntryT_co]:
        first = range(len(self))[index] * self.size
        return [self.actions[first + place] for place in range(self.size)]

    def __iter__(self) -> Iterator[list[EntryT_co]]:
        return (self[index] for index in range(len(self)))


def repeat_entries(batch: Any, groups: Segments) -> Any:
    """Entry i once for every entry of segment i, so that states line up with the actions of their groups."""
    if isinstance(batch, Tensor):
        if groups.uniform_length is not None:
            return batch.repeat_interleave(groups.uniform_length, dim=0)
        return batch.repeat_interleave(groups.lengths.to(batch.device), dim=0)
    if groups.uniform_length is not None:
        counts: Iterable[int] = repeat(groups.uniform_length)
    else:
        counts = groups.lengths.tolist()
    entries = list(batch)
    if len(entries) != groups.count:
        raise ValueError(
            f"states is a {type(batch).__name__} of length {groups.count}, but an iteration gives {len(entries)} "
            f"entries, expected as many: make a list of them"
        )
    return [entry for entry, count in zip(entries, counts, strict=False) for _ in range(count)]


def own_copy(batch: Any) -> Any:
    """The same states or actions to itself, for a model that may change what it is given.

    Tensors, arrays, lists, tuples and dictionaries are copied, with what they hold; other objects are taken as they
    are.
    """
    if isinstance(batch, Tensor):
        return (batch.detach() if batch.requires_grad else batch).clone()
    if type(batch) in (list, tuple):
        is_plain = all(type(entry) in PLAIN for entry in batch)
        if type(batch) is tuple:
            return batch if is_plain else tuple(map(own_copy, batch))
        return list(batch) if is_plain else [own_copy(entry) for entry in batch]
    if type(batch) is dict:
        return {name: own_copy(value) for name, value in batch.items()}
    return batch.copy() if hasattr(batch, "tolist") and hasattr(batch, "copy") else batch


def join_groups(groups: Any) -> Any:
    """Copies of all entries of the groups, group after group: [S][G] -> [N]; a tensor [S, G, ...] -> [N, ...].

    What :class:`EqualGroups` are cut from stays in one piece.
    """
    if isinstance(groups, Tensor):
        return groups.detach().clone().flatten(0, 1)
    if isinstance(groups, EqualGroups):
        return own_copy(groups.actions)
    if all(isinstance(group, Tensor) for group in groups) and len({group.shape[1:] for group in groups}) == 1:
        return torch.cat(list(groups))
    return [own_copy(action) for group in groups for action in group]


def select_entries(batch: Any, indices: Tensor) -> Any:
    """The entries at ``indices``, int64 of shape [K], in that order."""
    if isinstance(batch, Tensor):
        return batch[indices.to(batch.device)]
    return [batch[index] for index in indices.tolist()]
