"""Consecutive runs in a flat tensor: decisions of samples, samples of groups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Segments:
    """A flat tensor of ``total`` entries cut into ``len(self)`` consecutive segments.

    Nothing is padded: segment k owns ``lengths[k]`` entries, right behind those of segment k - 1. Where all segments
    have one length, sums and means go through a reshape; otherwise through :func:`torch.segment_reduce`, which
    is deterministic on a GPU as well.

    Attributes:
        count: K, the same as ``len``.
        total: entries of all segments together.
        uniform_length: entries of every segment where they are equally many, else None.
        longest: entries of the longest segment, 1 where there is none.

    Args:
        count: number of segments, K.
        length: entries of every segment, or the lengths themselves as an int64 tensor of shape [K].
        device: where tensors made here live; the lengths' own device where they are given as a tensor.

    Raises:
        ValueError: if a segment has no entry, or the lengths are not a vector of K integers.

    Example:
        >>> episodes = Segments.of_lengths([2, 1])
        >>> episodes.sum(torch.tensor([1.0, 2.0, 5.0]))
        tensor([3., 5.])
        >>> episodes.expand(torch.tensor([7, 8]))
        tensor([7, 7, 8])
    """

    def __init__(self, count: int, length: int | Tensor, device: torch.device | str | None = None) -> None:
        self.count = count
        self.uniform_length: int | None
        if isinstance(length, Tensor):
            if length.shape != (count,) or length.dtype != torch.int64:
                raise ValueError(
                    f"lengths of {count} segments: expected int64 of shape [{count}], "
                    f"got {length.dtype} of shape {list(length.shape)}"
                )
            # Read at once: on a GPU each reading waits for all that is under way.
            read: list[int] = torch.stack((*torch.aminmax(length), length.sum())).tolist() if count else [1, 1, 0]
            shortest, longest, self.total = read
            self.uniform_length = shortest if shortest == longest else None
            self.device = length.device
            self.lengths = length
        else:
            shortest = longest = length
            self.uniform_length = length
            self.total = length * count
            self.device = torch.device("cpu" if device is None else device)
            if self.device.type != "cpu" and self.device.index is None:
                self.device = torch.empty(0, device=self.device).device
        self.longest = longest
        if shortest < 1:
            raise ValueError(f"every segment needs at least one entry, but the shortest has {shortest}")

    @classmethod
    def of_lengths(cls, lengths: Sequence[int] | Tensor, device: torch.device | str | None = None) -> Segments:
        """Segments of the given lengths, a sequence or an int64 tensor of shape [K]."""
        if not isinstance(lengths, Tensor):
            lengths = torch.tensor(lengths, dtype=torch.int64 if len(lengths) == 0 else None, device=device)
        return cls(len(lengths), lengths)

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        shape = self.uniform_length if self.uniform_length is not None else "varied"
        return f"Segments(count={self.count}, length={shape}, total={self.total})"

    @cached_property
    def lengths(self) -> Tensor:
        """Entries of each segment, int64 of shape [K]."""
        assert self.uniform_length is not None
        return torch.full((self.count,), self.uniform_length, device=self.device)

    @cached_property
    def starts(self) -> Tensor:
        """Position of each segment's first entry, int64 of shape [K]."""
        if self.uniform_length is not None:
            return torch.arange(self.count, device=self.device) * self.uniform_length
        return self.lengths.cumsum(0) - self.lengths

    @property
    def last(self) -> Tensor:
        """Position of each segment's last entry, int64 of shape [K]."""
        return self.starts + (self.lengths - 1)

    @cached_property
    def ids(self) -> Tensor:
        """The segment each entry belongs to, int64 of shape [total]."""
        return self.expand(torch.arange(self.count, device=self.device))

    def sum(self, values: Tensor) -> Tensor:
        """Sum of the entries of each segment, [total] -> [K]; differentiable."""
        return self._reduce(values, "sum")

    def mean(self, values: Tensor) -> Tensor:
        """Mean of the entries of each segment, [total] -> [K]; differentiable."""
        return self._reduce(values, "mean")

    def maximum(self, values: Tensor) -> Tensor:
        """The largest entry of each segment, [total] -> [K]; no gradient."""
        return self._reduce(values.detach(), "max")

    def _reduce(self, values: Tensor, reduction: str) -> Tensor:
        self._check_count(values, self.total)
        if self.uniform_length == 1:
            return values
        if self.uniform_length is not None:
            table = values.view(self.count, self.uniform_length)
            if reduction == "max":
                return table.amax(1)
            return table.sum(1) if reduction == "sum" else table.mean(1)
        reduced: Tensor = torch.segment_reduce(values, reduction, lengths=self.lengths, unsafe=True)
        return reduced

    def center(self, values: Tensor) -> Tensor:
        """Each entry minus the mean of its segment, [total] -> [total]; exactly 0 where entries are equal."""
        self._check_count(values, self.total)
        # Counting from a segment's first entry makes equal entries cancel exactly, and large offsets harmless.
        if self.uniform_length is not None:
            table = values.view(self.count, self.uniform_length)
            offsets = table - table[:, :1]
            return offsets.sub_(offsets.mean(1, keepdim=True)).view(-1)
        offsets = values - self.expand(values[self.starts])
        return offsets - self.expand(self.mean(offsets))

    def norm(self, values: Tensor) -> Tensor:
        """Square root of the sum of squares of each segment, [total] -> [K]; squares neither overflow nor vanish."""
        self._check_count(values, self.total)
        wide = values.dtype if values.device.type == "mps" else torch.float64
        if self.uniform_length is not None:
            table = values.view(self.count, self.uniform_length)
            norms: Tensor = torch.linalg.vector_norm(table, dim=1, dtype=wide)
        else:
            norms = self.sum(values.to(wide).square()).sqrt()
        return norms.to(values.dtype)

    def discounted_sum(self, values: Tensor, discount: float | Tensor) -> Tensor:
        """From each entry on to the end of its segment, y_t = x_t + c y_{t+1}, [total] -> [total]; no gradient.

        A doubling scan: after k rounds y_t holds the 2^k entries from t on, so the longest segment takes the logarithm
        of its length in vector operations.

        Args:
            values: x, [total].
            discount: c in [0, 1], or that of each entry, [total].

        Example:
            >>> Segments.of_lengths([3, 1]).discounted_sum(torch.tensor([1.0, 2.0, 4.0, 8.0]), 0.5)
            tensor([3., 4., 4., 8.])
        """
        self._check_count(values, self.total)
        if not values.is_floating_point():
            raise TypeError(f"{self} discounts floating-point values, got {values.dtype}: call .float() on them")
        sums = values.detach().clone()
        if isinstance(discount, Tensor):
            self._check_count(discount, self.total)
            factors = discount.to(values, copy=True)
        else:
            factors = torch.full_like(values, discount)
        factors[self.last] = 0.0
        next_sums, next_factors = torch.empty_like(sums), torch.empty_like(factors)
        reach = 1
        while reach < self.longest:
            near, far = slice(0, self.total - reach), slice(reach, self.total)
            torch.addcmul(sums[near], factors[near], sums[far], out=next_sums[near])
            next_sums[self.total - reach :] = sums[self.total - reach :]
            torch.mul(factors[near], factors[far], out=next_factors[near])
            next_factors[self.total - reach :] = 0.0
            sums, next_sums, factors, next_factors = next_sums, sums, next_factors, factors
            reach *= 2
        return sums

    def expand(self, values: Tensor) -> Tensor:
        """Each segment's value at all of its entries, [K] -> [total]; differentiable."""
        self._check_count(values, self.count)
        if self.uniform_length == 1:
            return values
        if self.uniform_length is not None:
            return values.repeat_interleave(self.uniform_length, output_size=self.total)
        return values.repeat_interleave(self.lengths, output_size=self.total)

    def _check_count(self, values: Tensor, expected: int) -> None:
        if values.shape != (expected,):
            raise ValueError(f"{self} takes a tensor of shape [{expected}], got {list(values.shape)}")

    def same_cut(self, other: Segments) -> bool:
        """Whether both cut in the same places."""
        if self.uniform_length is not None or other.uniform_length is not None:
            return (self.count, self.uniform_length) == (other.count, other.uniform_length)
        return torch.equal(self.lengths, other.lengths)

    def count_within(self, whole: Segments) -> Segments:
        """These segments, counted in those of ``whole``, which cut the same entries and which none of these crosses.

        Example:
            >>> Segments.of_lengths([2, 1, 3]).count_within(Segments.of_lengths([3, 3])).lengths
            tensor([2, 1])
        """
        if self.uniform_length == 1:
            return whole
        if len(self) == len(whole):
            return Segments(len(whole), 1, whole.device)
        until = torch.searchsorted(self.last, whole.last) + 1
        return Segments.of_lengths(until.diff(prepend=until.new_zeros(1)))

    def positions(self, segments: Tensor) -> Tensor:
        """Positions of all entries of the given segments, in the order given, int64."""
        if self.uniform_length == 1:
            return segments
        if self.uniform_length is not None:
            offsets = torch.arange(self.uniform_length, device=self.device)
            return (segments.unsqueeze(1) * self.uniform_length + offsets).reshape(-1)
        chosen = self.select(segments)
        return chosen.expand(self.starts[segments] - chosen.starts) + torch.arange(chosen.total, device=self.device)

    def to(self, device: torch.device) -> Segments:
        """The same segments on a device."""
        if self.uniform_length is not None:
            return Segments(self.count, self.uniform_length, device)
        return Segments(self.count, self.lengths.to(device))

    def select(self, segments: Tensor) -> Segments:
        """Only the given segments, in the order given."""
        if self.uniform_length is not None:
            return Segments(len(segments), self.uniform_length, self.device)
        return Segments(len(segments), self.lengths[segments])
