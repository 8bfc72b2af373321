"""One process, or several that train one policy together."""

from __future__ import annotations

import ctypes
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from grpo.distributed._exchange import Exchange
from grpo.distributed._operation import SLOT, Kind, Operation
from grpo.distributed.errors import RankError, RankLostError
from grpo.distributed.seeds import derived_seed

KNOWN = "is_known_to_other_processes"
"""Attribute of errors that the other processes were told of."""


_numbers_of_worlds = count()


class World:
    """The processes that train one policy together: this one alone, or a group of them.

    Every process runs the same script, and holds the whole policy or a part of it. Each is given its share of the
    states; whatever depends on all samples of a step is added up here, so that the result is that of one process. All
    processes call the same methods in the same order, since each waits for the others.

    An error on one process is raised on all: by itself where it happened, as a :class:`grpo.RankError` elsewhere. A
    process that is gone, or does not come within the time limit, ends the others with a :class:`grpo.RankLostError`.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        timeout: seconds that one waits for the others.
        compare_every: steps of a trainer after which parameters are compared.

    Args:
        store: a store of ``torch.distributed`` that all processes share; None for this process alone.
        rank: of this process, from 0.
        size: number of processes.
        timeout: seconds that one waits for the others, who may take longer over an episode or an answer.
        compare_every: steps of a trainer after which parameters are compared, as they are when it is made.

    Example:
        >>> world = World()
        >>> world.size, world.sum(torch.tensor([1.0, 2.0])), world.share(["a", "b"])
        (1, tensor([1., 2.]), ['a', 'b'])
    """

    def __init__(
        self, store: Any = None, rank: int = 0, size: int = 1, *, timeout: float = 600.0, compare_every: int = 100
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or rank not in range(size):
            raise ValueError(f"World got rank={rank!r} and size={size!r}, expected a rank from 0 to size - 1")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"World got timeout={timeout!r}, expected a finite number of seconds above 0")
        if isinstance(compare_every, bool) or not isinstance(compare_every, int) or compare_every < 1:
            raise ValueError(f"World got compare_every={compare_every!r}, expected a number of steps, at least 1")
        if size > 1 and store is None:
            raise ValueError(
                f"World got size={size} without a store that all processes share: call World.from_environment() in "
                f"a script that torchrun starts"
            )
        self.rank = rank
        self.size = size
        self.timeout = timeout
        self.compare_every = compare_every
        self._exchange = Exchange(store, rank, size, timeout) if size > 1 else None

    @classmethod
    def from_environment(cls, *, timeout: float = 600.0, compare_every: int = 100, backend: str | None = None) -> World:
        """The processes that ``torchrun`` has started, or this one alone where it was started without.

        PyTorch's process group is initialised where it is not yet, for models that lie in parts on several processes.

        Args:
            timeout: seconds that one process waits for the others.
            compare_every: steps of a trainer after which parameters are compared.
            backend: of PyTorch's process group, ``"gloo"`` or ``"cpu:gloo,cuda:nccl"`` for instance; None for what
                fits the devices that there are. On a GPU each process takes the one of its ``LOCAL_RANK``.

        Raises:
            RuntimeError: if the processes do not find each other, or the backend is not there.
        """
        settings: dict[str, Any] = {"timeout": timeout, "compare_every": compare_every}
        if distributed.is_available() and distributed.is_initialized():
            store = _next_part_of(distributed.distributed_c10d._get_default_store())
            return cls(store, distributed.get_rank(), distributed.get_world_size(), **settings)
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if "RANK" in missing and "WORLD_SIZE" in missing:
            return cls(**settings)
        if missing:
            raise RuntimeError(
                f"the environment has no {', '.join(missing)}, though it is that of one process of several: start the "
                f"script by torchrun, which sets all of them"
            )
        limit = timedelta(seconds=timeout)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        try:
            store, rank, size = next(rendezvous("env://", timeout=limit))
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                # torchrun keeps its store when it starts processes again, with what those before have left in it.
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                store = distributed.distributed_c10d.PrefixStore(f"attempt {attempt}", store)
            backend = backend or ("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} did not find the others at "
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within {timeout:g} s, or cannot use them "
                f"({error})"
            ) from error
        return cls(_next_part_of(store), rank, size, **settings)

    @property
    def is_alone(self) -> bool:
        """Whether this is the only process, so that all methods return what they are given, at once."""
        return self._exchange is None

    @property
    def num_bytes(self) -> int:
        """Bytes that this process has handed over for sums and exchanges so far."""
        return 0 if self._exchange is None else self._exchange.num_bytes

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, of a tensor that has one shape on all of them."""
        return self._reduced(tensor, "SUM")

    def totals(self, *numbers: float) -> list[float]:
        """The sums over all processes of some numbers.

        Example:
            >>> World().totals(3, 0.5)
            [3, 0.5]
        """
        if self._exchange is None:
            return list(numbers)
        totals: list[float] = self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()
        return totals

    def maximum(self, tensor: Tensor) -> Tensor:
        """The maximum over all processes, entry by entry."""
        return self._reduced(tensor, "MAX")

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return flag if self.is_alone else bool(self.maximum(torch.tensor(float(flag))) > 0)

    def begin_sum(self, tensor: Tensor) -> PendingSum:
        """Begin to sum a tensor in place, while this process goes on with something else."""
        if self._exchange is None:
            return PendingSum(tensor, None, None)
        if tensor.is_cuda and distributed.is_initialized() and "nccl" in distributed.get_backend():
            self.agree()  # so that none waits on its GPU for one that has failed
            distributed.all_reduce(tensor)
            return PendingSum(tensor, None, None)
        host = tensor if tensor.device.type == "cpu" and tensor.is_contiguous() else tensor.cpu().contiguous()
        return PendingSum(tensor, self._exchange, self._exchange.begin("SUM", host))

    def gather(self, value: Any) -> list[Any]:
        """Something small from each process, in the order of ranks: anything that can be pickled."""
        if self._exchange is None:
            return [value]
        content = pickle.dumps(value)
        content = len(content).to_bytes(8, "little") + content
        parts = self._gathered(content[:SLOT], SLOT)
        lengths = [8 + int.from_bytes(part[:8], "little") for part in parts]
        if max(lengths) > SLOT:
            rests = self._gathered(content[SLOT:], max(lengths) - SLOT)
            parts = [part + rest for part, rest in zip(parts, rests, strict=True)]
        # They come from processes of the same training, over connections between them.
        return [pickle.loads(part[8:length]) for part, length in zip(parts, lengths, strict=True)]  # noqa: S301

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """What one process has, on all of them: anything that can be pickled."""
        return self.gather(value if self.rank == source else None)[source]

    def share(self, batch: Any) -> Any:
        """This process's part of a batch that all of them hold, by index: parts of consecutive entries, in order.

        Of a sequence or an array it is one of the same kind, of any other batch, a data set of rows for instance, a
        list of its entries.

        Raises:
            TypeError: if it is no batch.

        Example:
            >>> World().share([1, 2, 3])
            [1, 2, 3]
        """
        is_read_by_index = hasattr(batch, "__len__") and hasattr(batch, "__getitem__")
        if not is_read_by_index or isinstance(batch, Mapping | str | bytes):
            raise TypeError(
                f"World.share got a {type(batch).__name__}, expected a batch whose entries are read by index, such as "
                f"a list or a tensor of states: put them in a list first"
            )
        if self.is_alone:
            return batch
        part = self.part_of(len(batch))
        if isinstance(batch, Tensor | list | tuple | range) or hasattr(batch, "__array__"):
            return batch[part]
        return [batch[index] for index in range(part.start, part.stop)]

    def part_of(self, count: int) -> slice:
        """Which of so many entries are this process's; sizes differ by one at the most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def own_seed(self, seed: int) -> int:
        """A seed of this process's own, that follows from one which all have; the first process keeps that.

        Example:
            >>> World().own_seed(7)
            7
        """
        return seed if self.rank == 0 else derived_seed(f"rank {self.rank}", seed)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that ends well on all processes, or on none: the failure of one is raised on all."""
        try:
            yield
            self.agree()
        except BaseException as error:
            self.fail(error)
            raise

    def fail(self, error: BaseException) -> None:
        """Let the other processes raise at the next place where they wait for this one, which goes its own way now."""
        if self._exchange is not None and not _is_known(error):
            setattr(error, KNOWN, True)
            self._exchange.fail(error)

    def agree(self) -> None:
        """Return when all processes have come here, none of which has failed before."""
        self._reduced(torch.zeros(1), "MAX")

    def _reduced(self, tensor: Tensor, kind: Kind) -> Tensor:
        if self._exchange is None:
            return tensor
        # One width for all, since a process without samples may not know that of the others.
        wide = torch.float64 if tensor.is_floating_point() else torch.int64
        own = tensor.detach().to("cpu", wide, copy=True).contiguous()
        self._exchange.wait(self._exchange.begin(kind, own))
        return own.to(tensor)

    def _gathered(self, content: bytes, length: int) -> list[bytes]:
        """What each process sends, filled up to one length for all."""
        assert self._exchange is not None
        filled = torch.frombuffer(bytearray(content.ljust(length, b"\0")), dtype=torch.uint8)
        operation = self._exchange.begin("gather", filled)
        self._exchange.wait(operation)
        return [ctypes.string_at(part.data_ptr(), length) for part in operation.gathered]

    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        return self  # a copy of a part is one of the same process

    def __reduce__(self) -> tuple[type[World], tuple[()]]:
        return World, ()  # another process that is sent it is none of the group

    def __repr__(self) -> str:
        return f"World(rank={self.rank}, size={self.size})"


def _is_known(error: BaseException | None) -> bool:
    """Whether the other processes know of an error, or of the one that has led to it."""
    while error is not None:
        if isinstance(error, RankError | RankLostError) or hasattr(error, KNOWN):
            return True
        error = error.__cause__
    return False


class PendingSum:
    """A sum over processes that is under way."""

    def __init__(self, tensor: Tensor, exchange: Exchange | None, operation: Operation | None) -> None:
        self._tensor = tensor
        self._exchange = exchange
        self._operation = operation

    def wait(self) -> Tensor:
        """The sum, in the memory of the tensor that was given."""
        if self._exchange is not None and self._operation is not None:
            self._exchange.wait(self._operation)
            if self._operation.tensor is not self._tensor:
                self._tensor.copy_(self._operation.tensor.view_as(self._tensor))
        return self._tensor


def _next_part_of(store: Any) -> Any:
    """A part of a store for one more world: all processes make theirs in the same order."""
    return distributed.distributed_c10d.PrefixStore(f"world {next(_numbers_of_worlds)}", store)


ALONE = World()
"""The world of one process."""
