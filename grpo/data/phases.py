"""What the time of a step goes into."""

from __future__ import annotations

import time


class Phases:
    """A stopwatch that is always in one phase: to begin one ends the one before.

    Attributes:
        seconds: wall time by phase since :meth:`clear`. Work that was handed to a GPU counts where it is waited for.

    Example:
        >>> phases = Phases()
        >>> phases.begin("sampling")
        >>> phases.begin("updating")
        >>> phases.end()
        >>> list(phases.seconds)
        ['sampling', 'updating']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._current: str | None = None
        self._began = 0.0

    def begin(self, phase: str) -> None:
        """From here on time goes into this phase."""
        self.end()
        self._current = phase

    def end(self) -> None:
        """The current phase is over."""
        now = time.perf_counter()
        if self._current is not None:
            self.seconds[self._current] = self.seconds.get(self._current, 0.0) + now - self._began
        self._current, self._began = None, now

    def clear(self) -> None:
        """Forget what was measured."""
        self.seconds = {}
        self._current = None
