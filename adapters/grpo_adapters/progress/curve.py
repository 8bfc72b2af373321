"""Curves made of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """A character for each value, the higher the larger it is; blank where it is not finite.

    Args:
        values: any numbers.

    Returns:
        As many characters.

    Example:
        >>> sparkline([0.0, 1.0, 4.0, 9.0, float("nan"), 7.0])
        '▁▂▄█ ▆'
        >>> sparkline([3.0, 3.0])
        '▁▁'
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    steps = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * steps)] if math.isfinite(value) else " " for value in values)


class Curve:
    """The course of a number over a whole run, in a bounded number of means over equal stretches.

    Args:
        width: how many stretches there are at the most.

    Attributes:
        last: the last number; None before the first.

    Example:
        >>> curve = Curve(width=4)
        >>> for number in range(8):
        ...     curve.add(number)
        >>> curve.means
        [0.5, 2.5, 4.5, 6.5]
    """

    def __init__(self, width: int = 40) -> None:
        if width < 2 or width % 2:
            raise ValueError(f"width is {width}, expected an even number of at least 2")
        self.width = width
        self.last: float | None = None
        self._means: list[float] = []
        self._stretch = 1
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        """Take in the next number; one that is not finite leaves no trace but in ``last``."""
        self.last = value
        if not math.isfinite(value):
            return
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count < self._stretch:
            return
        if len(self._means) == self.width:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(first + second) / 2 for first, second in pairs]
            self._stretch *= 2
            return
        self._means.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0

    @property
    def means(self) -> list[float]:
        """The means so far; the last is of a stretch that is not yet full."""
        return [*self._means, self._sum / self._count] if self._count else list(self._means)

    def __str__(self) -> str:
        return sparkline(self.means)
