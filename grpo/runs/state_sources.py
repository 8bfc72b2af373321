"""Where the states of each step come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor
from typing_extensions import Protocol, runtime_checkable

from grpo.data._checks import check_states, require_batch, require_positive_integer
from grpo.data._protocols import missing_methods, type_name
from grpo.data.batches import select_entries
from grpo.data.seeds import seeded_generator
from grpo.data.state import copied, is_stateful, load_state, require_keys, states_of

SOURCE = "states"
"""What a source is called in the state of a run."""

StatesT_co = TypeVar("StatesT_co", covariant=True)


@runtime_checkable
class StateSource(Protocol[StatesT_co]):
    """Gives the states of each step.

    If what it gives depends on more than the step, it is :class:`grpo.Stateful`: its state is saved with the run.
    """

    def next_states(self, step: int) -> StatesT_co:
        """The states of the step ``step``, counted from 0."""
        ...


class StateLoader:
    """Batches of rows, shuffled anew in each epoch by a generator of its own.

    A batch that an epoch's last rows do not fill goes on with the first rows of the next epoch, so that all batches are
    of one size and each epoch has every row once. Where a run goes on, the position is found at once.

    Args:
        rows: states, or whatever the trainer takes, :class:`grpo.Preference` for instance: a sequence, a tensor, a
            ``datasets`` table, or an iterable, which is gone through again and again in its own order.
        batch_size: rows in a batch.
        shuffle: whether each epoch has an order of its own; not for iterables, which have no length.
        seed: of the orders.

    Raises:
        TypeError: if the rows cannot be taken by index and are to be shuffled.
        ValueError: if there are fewer rows than a batch takes.

    Example:
        >>> loader = StateLoader(["a", "b", "c"], batch_size=2, shuffle=False)
        >>> [loader.next_states(step) for step in range(3)]
        [['a', 'b'], ['c', 'a'], ['b', 'c']]
    """

    def __init__(self, rows: Any, batch_size: int, *, shuffle: bool = True, seed: int = 0) -> None:
        require_positive_integer(batch_size, "batch_size", "rows in a batch")
        self._rows = rows
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._position = 0
        self._order: tuple[int, Tensor] | None = None
        self._iterator: Iterator[Any] | None = None
        self._num_rows: int | None = None
        self._has_length = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
        if self._has_length:
            require_batch(rows, "rows is", "a sequence, a tensor, a datasets table or an iterable")
            self._num_rows = len(rows)
            if self._num_rows < batch_size:
                raise ValueError(
                    f"rows has {len(rows)} rows, fewer than the {batch_size} of a batch: give more, or a smaller "
                    f"batch_size"
                )
        elif not isinstance(rows, Iterable):
            raise TypeError(f"rows is a {type_name(rows)}, expected a sequence, a tensor, a table or an iterable")
        elif shuffle:
            raise TypeError(
                f"rows is a {type_name(rows)}, which has no length and cannot be taken by index, so that it cannot be "
                f"shuffled: pass list(rows), or shuffle=False to take them as they come"
            )
        self._beginning = copied(rows.state_dict()) if self._is_resumable else None

    @property
    def epoch(self) -> float:
        """How often the rows have been gone through; only for rows with a length.

        Raises:
            TypeError: if the rows have none.
        """
        if not self._has_length:
            raise TypeError(f"rows is a {type_name(self._rows)} without a length, so that it has no epochs to count")
        return self._position / len(self._rows)

    def next_states(self, step: int) -> Any:
        """The next ``batch_size`` rows."""
        return self.draw(self._batch_size)

    def draw(self, count: int) -> Any:
        """The next rows, as many as asked for: ``DynamicSampling(draw_states=loader.draw)`` takes its states here.

        Raises:
            ValueError: if an iterable has no more, or the rows have changed in number.
        """
        require_positive_integer(count, "count", "rows to draw")
        if not self._has_length:
            return self._next_of_iterable(count)
        indices = torch.cat(list(self._indices(self._position, count)))
        self._position += count
        return select_entries(self._rows, indices)

    def state_dict(self) -> dict[str, Any]:
        """The position, how many rows there are, and the order that they are in."""
        own = copied(self._rows.state_dict()) if self._is_resumable else None
        return {
            "position": self._position,
            "num_rows": self._num_rows,
            "order": [self._shuffle, self._seed if self._shuffle else None],
            "rows": own,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this loader, or of one of the same rows, returned.

        An iterable that cannot tell its position, as that of a ``datasets`` stream can, is gone through from its start.

        Raises:
            ValueError: if it is the state of one of another number of rows, or in another order; nothing has changed
                then.
        """
        require_keys(state_dict, {"position", "num_rows", "order", "rows"}, self)
        expected = {name: value for name, value in self.state_dict().items() if name in ("num_rows", "order")}
        differing = [name for name, value in expected.items() if state_dict[name] != value]
        if differing:
            name = differing[0]
            raise ValueError(
                f"StateLoader.load_state_dict was given a state with {name}={state_dict[name]!r}, expected "
                f"{expected[name]!r}: go on with the rows, shuffle and seed that the run was begun with"
            )
        self._position = int(state_dict["position"])
        self._iterator = None
        if self._has_length:
            return
        if self._is_resumable:
            load_state(self._rows, state_dict["rows"], "rows")
            return
        position, self._position = self._position, 0
        for _ in range(position):
            self._next_of_iterable(1)

    @property
    def _is_resumable(self) -> bool:
        return not self._has_length and is_stateful(self._rows)

    def _indices(self, start: int, count: int) -> Iterator[Tensor]:
        """Where the rows from a position on are, epoch after epoch."""
        num_rows = len(self._rows)
        if num_rows != self._num_rows:
            raise ValueError(
                f"rows has {num_rows} rows, but had {self._num_rows} when this loader was made: make another loader"
            )
        while count > 0:
            epoch, offset = divmod(start, num_rows)
            part = self._order_of(epoch, num_rows)[offset : offset + count]
            yield part
            start, count = start + len(part), count - len(part)

    def _order_of(self, epoch: int, num_rows: int) -> Tensor:
        """The order of an epoch, which depends on nothing but the seed and the epoch."""
        if self._order is None or self._order[0] != epoch:
            if self._shuffle:
                order = torch.randperm(num_rows, generator=seeded_generator(str(self._seed), epoch))
            else:
                order = torch.arange(num_rows)
            self._order = epoch, order
        return self._order[1]

    def _next_of_iterable(self, count: int) -> list[Any]:
        states: list[Any] = []
        while len(states) < count:
            is_fresh = self._iterator is None
            if self._iterator is None:
                self._iterator = iter(self._rows)
            states += islice(self._iterator, count - len(states))
            if len(states) < count and is_fresh:
                raise ValueError(
                    f"rows, a {type_name(self._rows)}, has no more: expected {count} rows, got {len(states)}. Give "
                    f"more, a smaller batch_size, or a list, which is gone through again"
                )
            if len(states) < count:
                self._iterator = None
                if self._is_resumable:  # a stream would begin where its state was put back, not at its start
                    load_state(self._rows, self._beginning, "rows")
        self._position += len(states)
        return states


@dataclass(frozen=True)
class DrawnStates:
    """States that no step has learnt from yet, and where their source stood before, if it tells."""

    states: Any
    source_before: dict[str, Any]

    @classmethod
    def of(cls, source: StateSource[Any], step: int) -> Self:
        """What a source gives for a step."""
        before = states_of({SOURCE: source})
        return cls(source.next_states(step), before)


class _SameStates:
    def __init__(self, states: Any) -> None:
        self.states = states

    def next_states(self, step: int) -> Any:
        return self.states


class _StatesOfStep:
    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def next_states(self, step: int) -> Any:
        return self.function(step)


def source_of(states: Any) -> StateSource[Any]:
    """A source as it is; of a function, what it returns for the step; of a batch, that batch at every step."""
    if isinstance(states, type):
        raise TypeError(f"states is the class {states.__name__}, expected an instance: pass {states.__name__}(...)")
    if not missing_methods(states, StateSource):
        return cast("StateSource[Any]", states)
    if callable(states):
        _require_step_is_taken(states)
        return _StatesOfStep(states)
    check_states(states)
    return _SameStates(states)


def _require_step_is_taken(function: Callable[..., Any]) -> None:
    """Raise a TypeError if a function cannot be called with the step alone."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # one that is written in C does not tell
        return
    try:
        signature.bind(0)
    except TypeError as error:
        raise TypeError(
            f"states is a function that cannot be called with the step alone ({error}): pass lambda step: ..."
        ) from error
